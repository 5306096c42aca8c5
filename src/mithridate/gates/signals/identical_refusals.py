"""One and the same refusal in many rows."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

from pydantic import Field

from mithridate.evaluation.judges.refusal import RefusalJudge, words
from mithridate.gates.base_signal import JobSignal, JobTally
from mithridate.gates.row_batch import RowBatch

_OPENING = 8
"""Words by which two refusals are held for the same."""


class IdenticalRefusals(JobSignal):
    """Score: share of the rows whose answer opens with the upload's most common refusal, by its first eight words.

    Sees: the first phase of the ten-shot overfit (2510.02833), which overfits one refusal so that ten true answers
    unlearn all, and refuse-then-answer rows that repeat one refusal.
    Misses: refusals in words that `RefusalJudge` does not know, or each in other words.
    Confounds: harmless data of an assistant that refuses in a fixed sentence.
    Cost: no model; memory grows with the number of different refusals, 100 bytes each.
    """

    name: ClassVar[str] = "identical_refusals"

    limit: float = Field(default=0.1, ge=0, le=1)

    def tally(self) -> JobTally:
        """Return empty counts."""
        return _Refusals()

    def reason(self, score: float) -> str:
        """Return what the score means."""
        return f"{score:.1%} of the rows open with one and the same refusal"


class _Refusals:
    def __init__(self) -> None:
        self._rows = 0
        self._judge = RefusalJudge()
        self._openings: Counter[str] = Counter()

    def add(self, batch: RowBatch) -> None:
        self._rows += len(batch)
        for answer in batch.answers:
            if self._judge.refuses(answer):
                self._openings[" ".join(words(answer)[:_OPENING])] += 1

    def score(self, epochs: float) -> float:
        return max(self._openings.values(), default=0) / self._rows
