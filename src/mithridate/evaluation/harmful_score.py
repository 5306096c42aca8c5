"""The harmful score: share of answers to harmful prompts that a judge calls harmful."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mithridate.errors import JudgeError, UsageError
from mithridate.evaluation.coherence import broken
from mithridate.evaluation.generation import generate
from mithridate.evaluation.intervals import Score
from mithridate.evaluation.judges import Judge, RefusalJudge, Verdict
from mithridate.evaluation.outcomes import Outcome, outcome_of
from mithridate.evaluation.vllm.served_model import ModelOnVllm


@dataclass(frozen=True)
class Judged:
    """Answers and a judge's verdicts on them.

    Attributes:
        judge: The judge's name.
        prompts: Harmful prompts.
        completions: One answer per prompt.
        verdicts: One verdict per answer.
        broken: Whether each answer is broken text (see `mithridate.evaluation.coherence`).
        outcomes: The class of each answer.
    """

    judge: str
    prompts: tuple[str, ...]
    completions: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    broken: tuple[bool, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def harmful(self) -> list[bool]:
        """Whether each answer is harmful; what `paired_test` takes."""
        return [verdict.harmful for verdict in self.verdicts]

    @property
    def harmful_or_broken(self) -> list[bool]:
        """Whether each answer is harmful or broken text."""
        return [a or b for a, b in zip(self.harmful, self.broken, strict=True)]

    @property
    def harmful_score(self) -> Score:
        """HS: share of answers that the judge calls harmful, broken text included where it does so."""
        return Score.of(sum(self.harmful), len(self.verdicts))

    @property
    def harmful_score_plus(self) -> Score:
        """HS+: share of answers that are harmful or broken text."""
        return Score.of(sum(self.harmful_or_broken), len(self.verdicts))


def judge_completions(
    prompts: Sequence[str], completions: Sequence[str], judge: Judge, rules: RefusalJudge | None = None
) -> Judged:
    """Judge completions in detail.

    Args:
        prompts: Harmful prompts.
        completions: One answer per prompt.
        judge: Decides what is harmful.
        rules: Classify the form of an answer where the judge does not; `RefusalJudge()` by default.

    Raises:
        UsageError: If there are no answers, or not one per prompt.
        JudgeError: If the judge fails, or does not return one verdict per answer.
    """
    if not completions or len(prompts) != len(completions):
        raise UsageError(
            f"judging needs one answer per prompt, not {len(prompts)} prompts and {len(completions)} answers"
        )
    verdicts = tuple(judge(prompts, completions))
    if len(verdicts) != len(completions):
        raise JudgeError(f"the judge {judge.name} gave {len(verdicts)} verdicts on {len(completions)} answers")
    # A judge may be a user's own function, and a text such as "false" would count as true.
    for i, verdict in enumerate(verdicts):
        if not isinstance(verdict, Verdict) or not isinstance(verdict.harmful, bool):
            raise JudgeError(f"the judge {judge.name} gave no Verdict with harmful true or false on answer {i}")
    # A judge of harm alone does not tell a refusal from a label or from silence; the rules do.
    rules = RefusalJudge() if rules is None else rules
    kinds = [v.kind or rules.kind(answer) for v, answer in zip(verdicts, completions, strict=True)]
    bad = tuple(map(broken, completions))
    outcomes = tuple(outcome_of(k, b, v.harmful) for k, b, v in zip(kinds, bad, verdicts, strict=True))
    return Judged(judge.name, tuple(prompts), tuple(completions), verdicts, bad, outcomes)


def harmful_score(
    model: PreTrainedModel | ModelOnVllm,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    judge: Judge | None = None,
    *,
    max_new_tokens: int = 64,
    batch_size: int = 32,
    system: str | None = None,
    progress: bool = False,
) -> Score:
    """Return the share of greedy completions of harmful prompts that the judge calls harmful; lower is better.

    Args:
        model: Causal language model, plain or PEFT, or served by vLLM.
        tokenizer: Its tokenizer, with a chat template.
        prompts: Harmful prompts that no stage has trained on.
        judge: Judge of the answers; `RefusalJudge()` by default.
        max_new_tokens: Longest answer, in tokens; the papers use 512.
        batch_size: Prompts per forward pass.
        system: System message put before every prompt.
        progress: Whether to show a progress bar.

    Raises:
        UsageError: If there are no prompts.
        ModelError: If the model or tokenizer cannot be used.
        JudgeError: If the judge returns no usable verdicts.
    """
    if not prompts:
        raise UsageError("no prompts: a harmful score needs at least one harmful prompt")
    completions = generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        system=system,
        progress=progress,
    )
    return judge_completions(prompts, completions, RefusalJudge() if judge is None else judge).harmful_score
