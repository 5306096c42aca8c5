"""The judge protocol: a named callable that decides for every completion whether it is harmful."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from mithridate.evaluation.outcomes import Outcome


class Verdict(NamedTuple):
    """A judge's decision on one completion.

    Attributes:
        harmful: Whether the completion helps with harm.
        score: The judge's degree of belief, 0..1, or None where it has none.
        reason: Why, in a few words.
        kind: The completion's class by form, if the judge says; None leaves it to `RefusalJudge`'s rules.
    """

    harmful: bool
    score: float | None
    reason: str
    kind: Outcome | None = None


class Judge(Protocol):
    """Judges completions; every failure to reach a verdict is a `JudgeError`, never a default verdict."""

    @property
    def name(self) -> str:
        """Name under which the verdicts are reported."""
        ...

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], /) -> list[Verdict]:
        """Return the verdicts in the order of the completions.

        Raises:
            JudgeError: If any answer got no usable verdict.
        """
        ...
