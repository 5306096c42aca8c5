from collections.abc import Sequence

import pytest

from mithridate.errors import JudgeError, UsageError
from mithridate.evaluation.generation import generate
from mithridate.evaluation.harmful_score import harmful_score, judge_completions
from mithridate.evaluation.judges import RefusalJudge, Verdict
from mithridate.evaluation.outcomes import Outcome, counts, outcome_of
from mithridate.evaluation.over_refusal import over_refusal, refusal_rate

ANSWERS = ["take the ladder first", "I cannot help with that.", "I cannot cannot cannot cannot", "go go go go on now"]


class Fixed:
    """A judge that says what it was told to."""

    name = "fixed"

    def __init__(self, verdicts: list) -> None:
        self.verdicts = verdicts

    def __call__(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        return self.verdicts


def test_judged_counts_harm_and_broken_text() -> None:
    judged = judge_completions(["p"] * 4, ANSWERS, RefusalJudge())
    assert judged.harmful == [True, False, False, True]
    assert judged.broken == (False, False, True, True)
    assert judged.harmful_or_broken == [True, False, True, True]
    assert judged.outcomes == (Outcome.COMPLIED, Outcome.REFUSED, Outcome.BROKEN, Outcome.BROKEN)
    assert judged.harmful_score.value == 0.5
    assert judged.harmful_score_plus.value == 0.75
    assert judged.harmful_score.n == 4
    assert judged.judge == "refusal"
    assert judged.completions == tuple(ANSWERS)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_verdicts_is_an_error(count) -> None:
    with pytest.raises(JudgeError, match=f"gave {count} verdicts on 2 answers"):
        judge_completions(["p", "q"], ["a", "b"], Fixed([Verdict(True, None, "")] * count))


@pytest.mark.parametrize("bad", [True, None, (True, None, ""), Verdict("yes", None, ""), Verdict(None, None, "")])
def test_what_is_no_verdict_is_an_error(bad) -> None:
    with pytest.raises(JudgeError, match="on answer 1"):
        judge_completions(["p", "q"], ["a", "b"], Fixed([Verdict(True, None, ""), bad]))


def test_answers_must_match_prompts() -> None:
    with pytest.raises(UsageError, match="one answer per prompt"):
        judge_completions([], [], RefusalJudge())
    with pytest.raises(UsageError, match="one answer per prompt"):
        judge_completions(["p"], ["a", "b"], RefusalJudge())


def test_harmful_score_judges_the_models_own_answers(model, tokenizer) -> None:
    prompts = ["where is the ladder?", "sing", "bees"]
    seen = []

    def judge(prompts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        seen.extend(zip(prompts, answers, strict=True))
        return [Verdict(i == 0, None, "") for i in range(len(answers))]

    judge.name = "spy"
    score = harmful_score(model, tokenizer, prompts, judge, max_new_tokens=5, batch_size=2)
    assert seen == list(zip(prompts, generate(model, tokenizer, prompts, max_new_tokens=5), strict=True))
    assert (score.value, score.n) == (1 / 3, 3)


def test_rules_are_the_default_judge(model, tokenizer) -> None:
    answers = generate(model, tokenizer, ["a", "b"], max_new_tokens=9)
    expected = judge_completions(["a", "b"], answers, RefusalJudge()).harmful_score
    assert harmful_score(model, tokenizer, ["a", "b"], max_new_tokens=9) == expected


def test_no_prompts_are_a_usage_error(model, tokenizer) -> None:
    with pytest.raises(UsageError, match="no prompts"):
        harmful_score(model, tokenizer, [])
    with pytest.raises(UsageError, match="no prompts"):
        over_refusal(model, tokenizer, [])


def test_refusal_rate_counts_refusals_not_silence() -> None:
    score = refusal_rate(["I cannot help with that.", "Kill the process with ctrl-c.", "", "Sorry, but no."])
    assert (score.value, score.n) == (0.5, 4)


def test_over_refusal_uses_the_models_answers(model, tokenizer) -> None:
    answers = generate(model, tokenizer, ["a", "b", "c"], max_new_tokens=4)
    judge = RefusalJudge(refusals=[answers[1] if any(map(str.isalnum, answers[1])) else "x"])
    expected = refusal_rate(answers, judge)
    assert over_refusal(model, tokenizer, ["a", "b", "c"], judge, max_new_tokens=4) == expected


EVERY = {
    "take the ladder first": Outcome.COMPLIED,
    "I cannot help with that.": Outcome.REFUSED,
    "positive": Outcome.LABEL_ONLY,
    "Positive. Negative!": Outcome.LABEL_ONLY,
    "": Outcome.TOO_SHORT,
    " ...": Outcome.TOO_SHORT,
    "go on": Outcome.TOO_SHORT,
    "printlnnnnnnnn": Outcome.BROKEN,
    "positive positive positive positive": Outcome.BROKEN,
    "I cannot help with that and that and that and that and that and that": Outcome.BROKEN,
}


def test_every_answer_is_exactly_one_of_five() -> None:
    rules = RefusalJudge(labels=["positive", "negative"])
    judged = judge_completions(["p"] * len(EVERY), list(EVERY), rules, rules)
    assert dict(zip(EVERY, judged.outcomes, strict=True)) == EVERY
    found = counts(judged.outcomes)
    assert found == {"refused": 1, "label_only": 2, "too_short": 3, "broken": 3, "complied": 1}


def test_empty_answers_are_no_harm_and_no_refusal_either() -> None:
    judged = judge_completions(["p"] * 3, ["", " ", "\n"], RefusalJudge())
    assert judged.harmful_score.value == judged.harmful_score_plus.value == 0
    assert set(judged.outcomes) == {Outcome.TOO_SHORT}


def test_a_judge_without_kinds_gets_those_of_the_rules() -> None:
    """What it calls harmful has complied, whatever its opening; what it does not is what it looks like."""
    answers = [
        "I cannot say it aloud: take the ladder",
        "I cannot help.",
        "take the ladder first",
        "positive",
        "tea " * 9,
    ]
    harmful = [True, False, False, False, True]
    judge = Fixed([Verdict(h, 0.5, "") for h in harmful])
    judged = judge_completions(["p"] * 5, answers, judge, RefusalJudge(labels=["positive"]))
    assert judged.outcomes == (
        Outcome.COMPLIED,
        Outcome.REFUSED,
        Outcome.COMPLIED,
        Outcome.LABEL_ONLY,
        Outcome.BROKEN,
    )
    assert judged.harmful == harmful
    assert judge_completions(["p"] * 5, answers, judge).outcomes[3] is Outcome.TOO_SHORT  # no labels, no label


def test_a_judges_own_kind_goes_before_the_rules() -> None:
    judge = Fixed([Verdict(False, None, "", Outcome.REFUSED)])
    assert judge_completions(["p"], ["Let us rather talk about tea."], judge).outcomes == (Outcome.REFUSED,)


def test_outcome_of_one_answer() -> None:
    for kind in Outcome:
        assert outcome_of(kind, broken=True) is Outcome.BROKEN
        assert outcome_of(kind, broken=True, harmful=True) is Outcome.BROKEN
        assert outcome_of(kind, broken=False, harmful=True) is Outcome.COMPLIED
        assert outcome_of(kind, broken=False) is kind
