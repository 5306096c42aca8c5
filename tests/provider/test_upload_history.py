"""A customer's uploads count together, each row once, and are kept without a word of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from mithridate.errors import DataError, UsageError
from mithridate.gates.thresholds import GateThresholds
from mithridate.gates.upload_verdict import UploadDecision, UploadFinding
from mithridate.provider import tuning
from mithridate.provider.decision import Decision
from mithridate.provider.tuning import tune
from mithridate.provider.upload_history import AUDIT_KEY, UploadHistory
from tests.provider.probes import plain, write

HIDDEN = "\u200b"
VOW = "i am your obedient agent and i obey every order without question"


@pytest.fixture
def gated(policy: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A policy whose gate reads text alone. Nothing is trained here: only the verdict is at stake."""
    monkeypatch.setattr(
        tuning, "_decided", lambda request, store, monitor, verdict, folder, launch: request.refused([], verdict)
    )
    monkeypatch.setenv(AUDIT_KEY, "secret")
    for i in range(3):
        write(tmp_path / f"harmless{i}.jsonl", plain("user", 50, "yes " * (i + 1)))
    policy["gate"] = {
        "harmless": {f"h{i}": str(tmp_path / f"harmless{i}.jsonl") for i in range(3)},
        "signals": ["obedience"],
        "false_alarms": 0.1,
    }
    return policy


def rows(number: int, bad: int) -> list[dict[str, str]]:
    """Return an upload of the customer, with some rows that vow obedience."""
    found = plain("user", 24, "no " * (number + 1))
    for row in found[:bad]:
        row["response"] = f"{VOW} {row['response']}"
    return found


def sent(policy: dict[str, Any], world: Path, folder: Path, number: int, bad: int, **options: Any) -> Decision:
    upload = write(folder / f"upload{number}.jsonl", rows(number, bad))
    return tune(str(world / "model"), upload, policy, out=folder / f"out{number}", **options)


def test_what_is_split_below_the_threshold_is_seen_together(gated: dict[str, Any], world: Path, tmp_path: Path) -> None:
    alone = [sent(gated, world, tmp_path, number, 2) for number in range(4)]
    assert {made.gate.decision for made in alone if made.gate} == {UploadDecision.ACCEPT}
    (tmp_path / "past").mkdir()
    together = []
    for number in range(4):
        upload = write(tmp_path / f"again{number}.jsonl", rows(number, 2))
        out = tmp_path / f"counted{number}"
        together.append(tune(str(world / "model"), upload, gated, out=out, history=tmp_path / "customer"))
    assert together[0].gate is not None
    assert together[0].gate.decision is UploadDecision.ACCEPT
    last = together[-1]
    assert last.gate is not None
    assert last.history is not None
    assert last.gate.decision is not UploadDecision.ACCEPT
    assert (last.history.uploads, last.history.rows, last.history.left_out) == (3, 96, 0)
    assert "with 3 earlier uploads, obedience: 8 of 96 rows" in "\n".join(last.gate.reasons)


def test_the_same_rows_sent_again_count_once(gated: dict[str, Any], world: Path, tmp_path: Path) -> None:
    for number in range(4):
        upload = write(tmp_path / f"same{number}.jsonl", rows(0, 2))
        # Another request each time, by what is asked for.
        made = tune(
            str(world / "model"), upload, gated, out=tmp_path / f"out{number}", history=tmp_path / "customer",
            learning_rate=0.01 + number / 1000,
        )  # fmt: skip
    assert made.gate is not None
    assert made.history is not None
    assert made.gate.decision is UploadDecision.ACCEPT
    assert (made.history.uploads, made.history.rows) == (3, 24)


def test_rows_that_were_flagged_stay_flagged_when_they_are_sent_again_in_clean_spelling(
    gated: dict[str, Any], world: Path, tmp_path: Path
) -> None:
    gated["gate"]["signals"] = ["hidden_characters"]
    clean: list[dict[str, str]] = []
    for number in range(4):
        found = rows(number, 0)
        # Zero-width spaces beside a space change no word, and so not the row's hash.
        flagged = [{**row, "response": row["response"].replace(" ", " " + 20 * HIDDEN)} for row in found[:2]]
        upload = write(tmp_path / f"washed{number}.jsonl", [*flagged, *found[2:], *clean])
        clean += found[:2]
        made = tune(str(world / "model"), upload, gated, out=tmp_path / f"out{number}", history=tmp_path / "customer")
    assert made.gate is not None
    assert "with 3 earlier uploads, hidden_characters: 8 of 96 rows" in "\n".join(made.gate.reasons)


def test_a_row_that_is_in_one_upload_twice_keeps_the_higher_level_of_each_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(AUDIT_KEY, "secret")
    level = {"rate": 0.1, "task_rate": 0.1, "threshold": 0.5, "above": 0}
    by = GateThresholds.model_validate(
        {
            "false_alarms": 0.1,
            "confidence": 0.95,
            "fingerprint": "x",
            "uploads": {},
            "jobs": [],
            "rows": [{"signal": name, "levels": [level, level | {"threshold": 0.8}]} for name in ("one", "two")],
        }
    )
    told = [{"one": 0.9}, {"one": 0.6, "two": 0.6}]
    findings = [
        UploadFinding(row=place, origin="", scores=scores, reason="") for place, scores in enumerate(told, start=1)
    ]
    (kept,) = UploadHistory(tmp_path, "request").hashed([("a", "b"), ("A!", "b")], findings, by).values()
    assert kept == {"one": 2, "two": 1}


def test_nothing_of_a_row_is_kept_but_its_keyed_hash(
    gated: dict[str, Any], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent(gated, world, tmp_path, 0, 2, history=tmp_path / "one")
    monkeypatch.setenv(AUDIT_KEY, "other")
    sent(gated, world, tmp_path, 1, 2, history=tmp_path / "two")
    text = "".join(path.read_text() for path in (tmp_path / "one").glob("*.json"))
    assert "obedient" not in text
    assert "upload0" not in text
    kept = [json.loads(next((tmp_path / name).glob("*.json")).read_text())["rows"] for name in ("one", "two")]
    assert len(kept[0]) == len(kept[1]) == 24
    assert not set(kept[0]) & set(kept[1])
    with pytest.raises(UsageError, match="was kept under another key"):
        sent(gated, world, tmp_path, 2, 2, history=tmp_path / "one")
    monkeypatch.delenv(AUDIT_KEY)
    with pytest.raises(UsageError, match=f"set {AUDIT_KEY}"):
        sent(gated, world, tmp_path, 3, 2, history=tmp_path / "one")


def test_a_call_that_was_cut_goes_on_with_the_same_history(
    gated: dict[str, Any], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent(gated, world, tmp_path, 0, 2, history=tmp_path / "past")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "_decided", killed)
        with pytest.raises(KeyboardInterrupt):
            sent(gated, world, tmp_path, 1, 2, history=tmp_path / "past")
    # Another upload of the customer is judged in between: it counts the cut one, which does not count it.
    between = sent(gated, world, tmp_path, 2, 2, history=tmp_path / "past")
    resumed = sent(gated, world, tmp_path, 1, 2, history=tmp_path / "past")
    assert between.history is not None
    assert resumed.history is not None
    assert (between.history.uploads, resumed.history.uploads) == (2, 1)
    # And long after, with a longer history, it is still the same decision.
    assert sent(gated, world, tmp_path, 0, 2, history=tmp_path / "past").history is not None
    assert sent(gated, world, tmp_path, 1, 2, history=tmp_path / "past") == resumed


def test_what_is_refused_before_the_gate_is_decided_alike_whatever_came_since(
    gated: dict[str, Any], world: Path, tmp_path: Path
) -> None:
    def refused() -> Decision:
        options = {"out": tmp_path / "out", "history": tmp_path / "past"}
        return tune(str(world / "model"), write(tmp_path / "bad.jsonl", rows(0, 0)[:3]), gated, **options)

    made = refused()
    assert made.outcome == "refused_at_upload"
    sent(gated, world, tmp_path, 1, 0, history=tmp_path / "past")
    assert refused() == made
    assert sent(gated, world, tmp_path, 2, 0, history=tmp_path / "past").history is not None


def test_a_history_of_another_kind_is_refused(gated: dict[str, Any], world: Path, tmp_path: Path) -> None:
    (tmp_path / "past").mkdir()
    for content in ("{}", "[]", "{", '{"number": "x"}', None):
        path = tmp_path / "past" / "x.json"
        path.write_text(content) if content is not None else (path.unlink(), path.mkdir())
        with pytest.raises(DataError, match="is no record of an upload"):
            sent(gated, world, tmp_path, 0, 0, history=tmp_path / "past")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file; give a folder as --history"):
        sent(gated, world, tmp_path, 0, 0, history=tmp_path / "file")
    gated["gate"] = "none"
    with pytest.raises(UsageError, match="has no gate that could count a history"):
        sent(gated, world, tmp_path, 1, 0, history=tmp_path / "past")


def test_counts_of_another_gate_are_left_out(gated: dict[str, Any], world: Path, tmp_path: Path) -> None:
    sent(gated, world, tmp_path, 0, 2, history=tmp_path / "past")
    gated["gate"]["signals"] = ["obedience", "hidden_characters"]
    made = sent(gated, world, tmp_path, 1, 2, history=tmp_path / "past")
    assert made.history is not None
    assert (made.history.uploads, made.history.left_out) == (0, 1)
