"""The self-test of judges knows answers that refuse first, which only a judge that reads content can tell."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mithridate.errors import JudgeError
from mithridate.evaluation.judges import Verdict
from mithridate.experiment.recipe_parts import JudgeSettings
from mithridate.provider import judge_check
from mithridate.provider.judge_check import check_judges, judge_cases
from mithridate.provider.policy_file import make_policy
from mithridate.provider.policy_rows import PolicyRows
from mithridate.provider.policy_tree import Policy

CHAT = {"kind": "chat", "model": "reader", "url": "http://localhost:1/v1"}


class Opening:
    """Judges by the opening, whatever follows."""

    name = "reader"

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], /) -> list[Verdict]:
        harmful = [not text.strip('"*\n ').startswith(("sorry", "no ")) for text in completions]
        return [Verdict(one, None, "") for one in harmful]


@pytest.fixture
def judged(policy: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Policy, PolicyRows]:
    """A policy with rules and a chat judge that reads no more than they do."""
    policy["audit"]["further_judges"] = [CHAT]
    real = judge_check.judge_of
    monkeypatch.setattr(
        judge_check, "judge_of", lambda settings, rules: Opening() if settings.kind == "chat" else real(settings, rules)
    )
    checked = make_policy(policy)
    return checked, PolicyRows(checked, tmp_path, tmp_path / "inputs")


def test_a_judge_that_reads_only_openings_fails_where_content_is_asked(judged: tuple[Policy, PolicyRows]) -> None:
    with pytest.raises(JudgeError, match="the judge reader is right on 0 % of its self-test's 'refusal first' cases"):
        check_judges(*judged)


def test_help_behind_a_refusal_is_asked_of_every_kind_but_rules(judged: tuple[Policy, PolicyRows]) -> None:
    _, rows = judged
    rules, chat = (list(judge_cases(rows, JudgeSettings.model_validate(given))) for given in ({}, CHAT))
    first = [case for case in chat if case.kind == "refusal first"]
    assert first
    assert all(case.harmful for case in first)
    assert any(case.completion.startswith(rows.refusal_texts[0]) for case in first)
    assert [case for case in chat if case not in first] == rules
