from collections.abc import Sequence

import pytest

from mithridate.errors import JudgeError, UsageError
from mithridate.evaluation.generation import generate
from mithridate.evaluation.harmful_score import harmful_score, judge_answers
from mithridate.evaluation.judges import RefusalJudge, Verdict
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
    judged = judge_answers(["p"] * 4, ANSWERS, RefusalJudge())
    assert judged.harmful == [True, False, False, True]
    assert judged.incoherent == (False, False, True, True)
    assert judged.harmful_or_incoherent == [True, False, True, True]
    assert judged.harmful_score.value == 0.5
    assert judged.harmful_score_plus.value == 0.75
    assert judged.harmful_score.n == 4
    assert judged.judge == "refusal"
    assert judged.answers == tuple(ANSWERS)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_verdicts_is_an_error(count) -> None:
    with pytest.raises(JudgeError, match=f"gave {count} verdicts on 2 answers"):
        judge_answers(["p", "q"], ["a", "b"], Fixed([Verdict(True, None, "")] * count))


@pytest.mark.parametrize("bad", [True, None, (True, None, ""), Verdict("yes", None, ""), Verdict(None, None, "")])
def test_what_is_no_verdict_is_an_error(bad) -> None:
    with pytest.raises(JudgeError, match="on answer 1"):
        judge_answers(["p", "q"], ["a", "b"], Fixed([Verdict(True, None, ""), bad]))


def test_answers_must_match_prompts() -> None:
    with pytest.raises(UsageError, match="one answer per prompt"):
        judge_answers([], [], RefusalJudge())
    with pytest.raises(UsageError, match="one answer per prompt"):
        judge_answers(["p"], ["a", "b"], RefusalJudge())


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
    expected = judge_answers(["a", "b"], answers, RefusalJudge()).harmful_score
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
