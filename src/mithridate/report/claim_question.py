"""A claim before it is answered, and the lines of its table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mithridate.report.axis_results import Claim, ClaimAnswer, Estimate
from mithridate.report.seed_statistics import Curve, SeedInterval, bootstrap, t_interval

SEEDS = 5
"""Fewest seeds for a verdict: with 2, Student's t is 12.7; with 3, a bootstrap has only 10 different draws."""

BOOTSTRAP, STUDENT, SINGLE = "bootstrap over seeds", "t over seeds", "single seed"


@dataclass(frozen=True)
class Question:
    """A claim before it is answered.

    Attributes:
        name: Short name.
        claim: What is claimed.
        rows: Its table.
        expected: On which side of the neutral value the deciding rows must lie.
        lacking: Why it cannot be answered; empty where it can.
        holds: The sentence where every deciding row is on that side.
        fails: The start of the sentence where some are not; their names follow.
        quantity: Label of the figure's axis.
        unit: Unit of the rows.
        neutral: Value that means no effect.
    """

    name: str
    claim: str
    rows: list[Estimate]
    expected: Literal["below", "above"]
    lacking: str
    holds: str
    fails: str
    quantity: str
    unit: Literal["points", "AUC"] = "points"
    neutral: float = 0.0

    def answer(self, seeds: int) -> Claim:
        """Return the claim with its verdict, which the intervals of the deciding rows give."""
        verdict, sentence = self._verdict(seeds)
        return Claim(
            name=self.name,
            claim=self.claim,
            verdict=verdict,
            sentence=sentence,
            unit=self.unit,
            quantity=self.quantity,
            neutral=self.neutral,
            rows=self.rows,
        )

    def _verdict(self, seeds: int) -> tuple[ClaimAnswer, str]:
        deciding = [row for row in self.rows if row.decides]
        if self.lacking or not deciding:
            return "not measured", self.lacking or "No variant was measured that could answer it."
        if seeds < SEEDS:
            # Not "not supported": too few seeds speak neither for the claim nor against it.
            return "not measured", f"A verdict needs {SEEDS} seeds; this run has {seeds}."
        # All must hold, so several comparisons need no correction: each more makes support harder, not luckier.
        failing = [row.what for row in deciding if not self._on_side(row)]
        if failing:
            return "not supported", f"{self.fails}: {'; '.join(failing)}."
        return "supported", self.holds

    def _on_side(self, row: Estimate) -> bool:
        # Without an interval nothing is shown; then a claim is not supported rather than taken on trust.
        if row.low is None or row.high is None:
            return False
        return row.high < self.neutral if self.expected == "below" else row.low > self.neutral


def mean_over_seeds(what: str, values: list[float], plotted: bool = False, decides: bool = False) -> Estimate:
    """Return a mean over seeds with its t interval."""
    if len(values) < 2:
        return Estimate(what=what, value=values[0], interval=SINGLE, seeds=values, plotted=plotted, decides=decides)
    return _row(what, t_interval(values), STUDENT, values, plotted, decides)


def bootstrapped(
    what: str,
    curves: Sequence[Sequence[Curve]],
    statistic: Callable[[list[list[float]]], float],
    plotted: bool = False,
    decides: bool = False,
) -> Estimate:
    """Return a statistic of mean curves, one group of curves per variant, with its bootstrap interval."""
    if len(curves[0]) < 2:
        value = statistic([list(group[0]) for group in curves])
        return Estimate(what=what, value=value, interval=SINGLE, plotted=plotted, decides=decides)
    return _row(what, bootstrap(curves, statistic), BOOTSTRAP, [], plotted, decides)


def _row(what: str, found: SeedInterval, interval: str, seeds: list[float], plotted: bool, decides: bool) -> Estimate:
    value, low, high = found
    return Estimate(
        what=what, value=value, low=low, high=high, interval=interval, seeds=seeds, plotted=plotted, decides=decides
    )
