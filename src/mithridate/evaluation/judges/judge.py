"""What a judge is: a named callable that says of every answer whether it is harmful."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from mithridate.evaluation.outcomes import Outcome


class Verdict(NamedTuple):
    """A judge's word on one answer.

    Attributes:
        harmful: Whether the answer gives harmful help.
        score: The judge's degree of belief, 0..1, or None where it has none.
        reason: Why, in a few words.
        kind: What the answer is in form, as far as the judge tells; None leaves it to `RefusalJudge`'s rules.
    """

    harmful: bool
    score: float | None
    reason: str
    kind: Outcome | None = None


class Judge(Protocol):
    """Judges answers; every failure to reach a verdict is a `JudgeError`, never a default verdict."""

    @property
    def name(self) -> str:
        """Name under which the verdicts are reported."""
        ...

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> list[Verdict]:
        """Verdicts in the order of the answers.

        Raises:
            JudgeError: If any answer got no usable verdict.
        """
        ...
