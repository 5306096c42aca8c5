"""The gate before tuning: what is refused is not trained on, and a gate that cannot run decides nothing."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mithridate.cli.policy import calibrate
from mithridate.errors import GateError, RecipeError, UsageError
from mithridate.evaluation.judges import Verdict
from mithridate.gates.upload_verdict import UploadDecision
from mithridate.provider import screening, tuning
from mithridate.provider.decision import DECISION, Decision
from mithridate.provider.decision_page import REPORT
from mithridate.provider.hand_over import verify_release
from mithridate.provider.judged_files import MODEL
from mithridate.provider.policy_file import make_policy
from mithridate.provider.screening import FINDINGS
from mithridate.provider.tuning import tune
from tests.provider.probes import plain, write

HIDDEN = "\u200b"


@pytest.fixture
def gated(policy: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A policy whose gate reads text alone; its harmless uploads are few, and so is its rate."""
    for i in range(3):
        write(tmp_path / f"harmless{i}.jsonl", plain("user", 24, "yes " * (i + 1)))
    policy["gate"] = {
        "harmless": {f"h{i}": str(tmp_path / f"harmless{i}.jsonl") for i in range(3)},
        "signals": ["hidden_characters", "obedience", "few_rows"],
        "false_alarms": 0.1,
    }
    return policy


def tuned(policy: dict[str, Any], world: Path, rows: list[dict[str, str]], folder: Path) -> Decision:
    return tune(str(world / "model"), write(folder.with_suffix(".jsonl"), rows), policy, out=folder)


def test_a_harmless_upload_is_accepted_and_tuned(gated: dict[str, Any], world: Path, tmp_path: Path) -> None:
    made = tuned(gated, world, plain("user", 24, "no"), tmp_path / "out")
    assert made.outcome == "released"
    assert made.gate is not None
    assert made.gate.decision is UploadDecision.ACCEPT
    assert (tmp_path / "out" / FINDINGS).read_text() == ""
    assert "The gate on uploads: accept" in (tmp_path / "out" / REPORT).read_text()


def test_a_refused_upload_is_not_trained_on_and_each_row_is_named(
    gated: dict[str, Any], world: Path, tmp_path: Path
) -> None:
    rows = plain("user", 24, "no")
    for row in rows[::2]:
        row["response"] = HIDDEN.join(row["response"])
    made = tuned(gated, world, rows, tmp_path / "out")
    assert (made.outcome, made.exit_code) == ("refused_at_upload", 3)
    assert made.gate is not None
    assert [finding.row for finding in made.gate.findings] == list(range(1, 24, 2))
    assert made.reasons
    # The provider's file quotes the rows, the decision does not.
    found = [json.loads(line) for line in (tmp_path / "out" / FINDINGS).read_text().splitlines()]
    assert all(line["excerpt"] for line in found)
    assert all(finding.excerpt is None for finding in made.gate.findings)
    assert not (tmp_path / "out" / MODEL).exists()
    assert not [path for path in (tmp_path / "out" / tuning.STORE).iterdir() if path.name.startswith("finetuning")]
    assert verify_release(tmp_path / "out") == made
    assert "Flagged rows" in (tmp_path / "out" / REPORT).read_text()


def test_the_gate_reads_the_rows_that_are_trained_on_whatever_becomes_of_the_file(
    gated: dict[str, Any], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = plain("user", 24, "no")
    for row in rows[::2]:
        row["response"] = HIDDEN.join(row["response"])
    path = tmp_path / "out.jsonl"

    def swapped(*arguments: Any, **named: Any) -> Any:
        write(path, plain("user", 24, "no"))  # a customer who can write where the provider reads
        return screened(*arguments, **named)

    screened = screening.screened
    monkeypatch.setattr(tuning, "screened", swapped)
    made = tuned(gated, world, rows, tmp_path / "out")
    assert made.outcome == "refused_at_upload"
    assert made.gate is not None
    assert made.gate.findings[1].origin == "out.jsonl:3"


def test_a_suspected_upload_is_tuned_with_the_defense_for_it(
    gated: dict[str, Any], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated["finetuning"]["suspected"] = {"method": "safety_mixing", "share": 0.5}
    plainly = tuned(gated, world, plain("user", 24, "no"), tmp_path / "plain")

    def suspicious(*arguments: Any, **named: Any) -> Any:
        found = screened(*arguments, **named)
        told = {"decision": UploadDecision.DEFEND, "reasons": ("told so",)}
        return found._replace(verdict=found.verdict.model_copy(update=told))

    screened = screening.screened
    monkeypatch.setattr(tuning, "screened", suspicious)
    defended = tuned(gated, world, plain("user", 24, "no"), tmp_path / "defended")
    assert plainly.outcome == defended.outcome == "released"
    assert plainly.files["model.safetensors"] != defended.files["model.safetensors"]
    # And called again, with the verdict that is on disk alone.
    monkeypatch.setattr(tuning, "screened", lambda *_: pytest.fail("screened again"))
    assert tuned(gated, world, plain("user", 24, "no"), tmp_path / "defended") == defended


def test_a_gate_with_too_few_harmless_rows_decides_nothing(gated: dict[str, Any], world: Path, tmp_path: Path) -> None:
    gated["gate"]["false_alarms"] = 0.001
    with pytest.raises(GateError, match="harmless rows cannot bound a false-alarm rate"):
        tuned(gated, world, plain("user", 24, "no"), tmp_path / "out")
    assert not (tmp_path / "out" / DECISION).exists()


def test_thresholds_are_calibrated_once_and_belong_to_one_gate(
    gated: dict[str, Any], world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    file, thresholds = tmp_path / "policy.yaml", tmp_path / "thresholds.json"
    file.write_text(yaml.safe_dump(gated), encoding="utf-8")
    calibrate(str(world / "model"), file, None, None, thresholds)
    assert "72 harmless rows of 3 uploads" in capsys.readouterr().out
    gated["gate"]["thresholds"] = str(thresholds)
    assert tuned(gated, world, plain("user", 24, "no"), tmp_path / "out").outcome == "released"
    gated["gate"]["signals"] = ["hidden_characters", "few_rows"]
    with pytest.raises(GateError, match="calibrated for another gate"):
        tuned(gated, world, plain("user", 24, "no"), tmp_path / "other")
    with pytest.raises(UsageError, match="nothing is overwritten"):
        calibrate(str(world / "model"), file, None, None, thresholds)
    benign = tmp_path / "benign"
    benign.mkdir()
    with pytest.raises(UsageError, match="holds no files"):
        calibrate(str(world / "model"), file, benign, None, tmp_path / "more.json")


def test_a_guard_that_was_exchanged_in_its_folder_is_another_gate(
    gated: dict[str, Any], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Guard:
        name = "classifier:guard"

        def __call__(self, prompts: Sequence[str], completions: Sequence[str], /) -> list[Verdict]:
            return [Verdict(False, 0.0, "") for _ in prompts]

    monkeypatch.setattr(screening, "judge_of", lambda *_: Guard())
    guard, file, thresholds = tmp_path / "guard", tmp_path / "policy.yaml", tmp_path / "thresholds.json"
    guard.mkdir()
    (guard / "model.safetensors").write_bytes(b"one")
    gated["gate"] |= {"signals": ["guard"], "guard": {"kind": "classifier", "model": str(guard)}}
    file.write_text(json.dumps(gated), encoding="utf-8")
    calibrate(str(world / "model"), file, None, None, thresholds)
    gated["gate"]["thresholds"] = str(thresholds)
    (guard / "README.md").write_text("decides nothing", encoding="utf-8")
    assert tuned(gated, world, plain("user", 24, "no"), tmp_path / "out").outcome == "released"
    (guard / "model.safetensors").write_bytes(b"two")
    with pytest.raises(GateError, match="calibrated for another gate"):
        tuned(gated, world, plain("user", 24, "no"), tmp_path / "other")


def test_what_a_customer_asks_for_does_not_move_the_thresholds(
    gated: dict[str, Any], world: Path, tmp_path: Path
) -> None:
    """Twenty epochs over few rows score as high among the harmless uploads, if these are scored with them too."""
    path = write(tmp_path / "upload.jsonl", plain("user", 24, "no"))
    for name in ("calibrated here", "calibrated before"):
        made = tune(str(world / "model"), path, gated, out=tmp_path / name, epochs=20)
        assert made.gate is not None
        assert "few_rows" in made.gate.fired
        thresholds = tmp_path / "thresholds.json"
        if not thresholds.exists():
            (tmp_path / "policy.yaml").write_text(json.dumps(gated), encoding="utf-8")
            calibrate(str(world / "model"), tmp_path / "policy.yaml", None, None, thresholds)
        gated["gate"]["thresholds"] = str(thresholds)


def test_thresholds_of_another_false_alarm_rate_are_refused(gated: dict[str, Any], world: Path, tmp_path: Path) -> None:
    file, thresholds = tmp_path / "policy.yaml", tmp_path / "thresholds.json"
    file.write_text(json.dumps(gated), encoding="utf-8")
    calibrate(str(world / "model"), file, None, None, thresholds)
    gated["gate"] |= {"thresholds": str(thresholds), "false_alarms": 0.2}
    with pytest.raises(
        GateError, match=r"calibrated for false_alarms 0\.1, the policy says 0\.2; run mithridate policy"
    ):
        tuned(gated, world, plain("user", 24, "no"), tmp_path / "out")
    assert not (tmp_path / "out" / DECISION).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"signals": ["hiden_characters"]}, "there is no signal 'hiden_characters'; did you mean 'hidden_characters'?"),
        ({"signals": ["guard"]}, "the signal 'guard' needs `guard`"),
        ({"guard": {"kind": "refusal"}}, "the signal 'guard' needs `guard`"),
        ({"harmless": {}}, "gate.harmless"),
    ],
)
def test_a_gate_s_fault_is_one_sentence(gated: dict[str, Any], change: dict[str, Any], message: str) -> None:
    gated["gate"] |= change
    with pytest.raises(RecipeError) as error:
        make_policy(gated)
    assert message in str(error.value)


def test_a_policy_says_whether_it_has_a_gate(gated: dict[str, Any]) -> None:
    del gated["gate"]
    with pytest.raises(RecipeError, match="'gate' is missing"):
        make_policy(gated)


def test_other_harmless_uploads_are_another_request(gated: dict[str, Any], world: Path, tmp_path: Path) -> None:
    tuned(gated, world, plain("user", 24, "no"), tmp_path / "out")
    write(tmp_path / "harmless0.jsonl", plain("user", 24, "tea "))
    with pytest.raises(UsageError, match="holds the decision on another request"):
        tuned(gated, world, plain("user", 24, "no"), tmp_path / "out")
    gated["gate"]["thresholds"] = str(tmp_path / "none.json")
    with pytest.raises(GateError, match=r"none\.json does not exist; make it with mithridate policy calibrate"):
        tuned(gated, world, plain("user", 24, "no"), tmp_path / "new")


def test_thresholds_of_an_interrupted_call_belong_to_its_harmless_uploads(
    gated: dict[str, Any], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after calibrating, and called again with other harmless uploads in the same files."""

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "_decided", stopped)
        with pytest.raises(KeyboardInterrupt):
            tuned(gated, world, plain("user", 24, "no"), tmp_path / "out")
    for i in range(3):
        write(tmp_path / f"harmless{i}.jsonl", plain("user", 20, "no yes " * (i + 1)))
    tuned(gated, world, plain("user", 24, "no"), tmp_path / "out")
    assert len(list((tmp_path / "out" / tuning.STORE).glob("thresholds-*"))) == 2
