"""A policy that names what does not exist is found out before the first upload."""

import json
from pathlib import Path
from typing import Any

import pytest

from mithridate.cli.policy import check
from mithridate.errors import JudgeError, MithridateError, UsageError
from mithridate.gates.thresholds import GateThresholds
from mithridate.provider import judge_check
from mithridate.provider.policy_check import check_policy
from mithridate.provider.policy_file import make_policy, opened, template_of
from mithridate.provider.tuning import tune
from mithridate.service.worker.policy_preparation import facts_of
from tests.helpers import tiny
from tests.provider.probes import plain, write

GUARD = {"kind": "guard", "model": "granite-guardian-3", "form": "granite-guardian-3", "url": "http://localhost:1/v1"}


@pytest.fixture
def gated(policy: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A policy with a gate whose harmless upload and thresholds lie beside it."""
    write(tmp_path / "harmless.jsonl", plain("user", 24, "yes"))
    GateThresholds(
        false_alarms=0.1, confidence=0.95, fingerprint="x", uploads={"h": 24}, rows=(), jobs=()
    ).save(tmp_path / "thresholds.json")  # fmt: skip
    policy["gate"] = {
        "harmless": {"h": "harmless.jsonl"},
        "thresholds": "thresholds.json",
        "signals": ["hidden_characters"],
        "false_alarms": 0.1,
    }
    (tmp_path / "tea.jinja").write_text(tiny.TEMPLATE, encoding="utf-8")
    policy["template"] = "tea.jinja"
    return policy


def saved(policy: dict[str, Any], folder: Path) -> Path:
    path = folder / "policy.yaml"
    path.write_text(json.dumps(policy), encoding="utf-8")
    return path


def test_what_lies_beside_the_policy_is_found(
    gated: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(saved(gated, tmp_path))
    assert "policy 'tiny' can be used" in capsys.readouterr().out
    assert str(tmp_path / "tea.jinja") in facts_of(tmp_path / "policy.yaml").reads


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"harmless": {"h": "none.jsonl"}}, r"none\.jsonl"),
        ({"thresholds": "none.json"}, r"none\.json does not exist; make it with mithridate policy calibrate"),
        ({"thresholds": "harmless.jsonl"}, r"harmless\.jsonl holds no thresholds"),
        ({"false_alarms": 0.2}, r"was calibrated for false_alarms 0\.1, the policy says 0\.2"),
        ({"template": "none.jinja"}, r"There is no chat template 'none\.jinja'"),
        ({"template": "tea"}, "There is no chat template 'tea'"),
    ],
)
def test_what_a_policy_names_and_does_not_exist_is_a_fault(
    gated: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    (gated if "template" in change else gated["gate"]).update(change)
    path = saved(gated, tmp_path)
    for asked in (check, facts_of):
        with pytest.raises(MithridateError, match=message):
            asked(path)


def test_the_gate_s_guard_must_pass_the_self_test_too(
    gated: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated["gate"] |= {"signals": ["hidden_characters", "guard"], "guard": GUARD}
    checked, base = opened(saved(gated, tmp_path))
    asked: list[str] = []

    def tested(judge: Any, cases: list[Any]) -> dict[str, float]:
        asked.append(judge.name)
        if "granite" in judge.name:
            raise JudgeError("the guard cannot be reached")
        return {"plain": 1.0}

    monkeypatch.setattr(judge_check, "_tested", tested)
    with pytest.raises(JudgeError, match="the guard cannot be reached"):
        check_policy(checked, base)
    assert len(asked) == 2


def test_a_template_beside_the_policy_lays_out_the_rows_and_its_contents_decide(
    gated: dict[str, Any], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated["gate"] = "none"
    path = saved(gated, tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    upload, out = write(tmp_path / "upload.jsonl", plain("user", 24, "no")), tmp_path / "out"
    made = tune(str(world / "model"), upload, path, out=out)
    assert made.outcome == "released"
    assert (out / "model" / "chat_template.jinja").read_text(encoding="utf-8") == tiny.TEMPLATE
    (tmp_path / "tea.jinja").write_text(tiny.TEMPLATE + "{# another #}", encoding="utf-8")
    with pytest.raises(UsageError, match="holds the decision on another request"):
        tune(str(world / "model"), upload, path, out=out)


def test_a_folder_called_like_a_built_in_template_hides_none(policy: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "alpaca").mkdir()
    assert template_of(make_policy(policy | {"template": "alpaca"}), tmp_path) == "alpaca"
