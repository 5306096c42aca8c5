"""A guard model or endpoint that reads each row."""

from __future__ import annotations

from typing import ClassVar

from mithridate.errors import GateError, JudgeError
from mithridate.gates.base_signal import Need, RowScorer, RowSignal
from mithridate.gates.reference import Reference
from mithridate.gates.row_batch import RowBatch


class GuardModel(RowSignal):
    """Score: the judge's belief that the answer is harmful, or 1 and 0 where it has none.

    Sees: whatever the guard calls harmful in plain text.
    Misses: row by row nearly all covert attacks (< 0.4 % of rows over eight of them, 2510.16255): each row alone is
    harmless. A guard can be persuaded by what it reads.
    Cost: the guard's own, mostly far more than all other signals together; leave it out where it is too much.
    """

    name: ClassVar[str] = "guard"
    needs: ClassVar[tuple[Need, ...]] = ("judge",)

    def prepare(self, reference: Reference) -> RowScorer:
        """Take the judge."""
        judge = reference.provider.judge
        assert judge is not None

        def score(batch: RowBatch) -> list[float]:
            try:
                verdicts = judge(batch.prompts, batch.answers)
            except JudgeError as error:
                where = f"rows {batch.first} to {batch.first + len(batch) - 1}"
                raise GateError(f"the guard {judge.name} gave no verdict on {where}: {error}") from error
            if len(verdicts) != len(batch):
                raise GateError(f"the guard {judge.name} gave {len(verdicts)} verdicts on {len(batch)} rows")
            return [_belief(one.harmful, one.score) for one in verdicts]

        return score

    def reason(self, score: float) -> str:
        """Return what the score means."""
        return f"the guard calls the answer harmful ({score:.2f})"


def _belief(harmful: bool, score: float | None) -> float:
    if score is None:
        return float(harmful)
    # A verdict in words outweighs a score that contradicts it; NaN stays NaN, which stops the gate.
    return max(score, 0.5) if harmful else min(score, 0.5)
