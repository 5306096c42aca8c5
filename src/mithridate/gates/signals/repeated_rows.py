"""Rows that say again what an earlier row said."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from mithridate.gates.base_signal import JobSignal, JobTally
from mithridate.gates.distinct_rows import DistinctRows


class RepeatedRows(JobSignal):
    """Score: share of the rows whose prompt and answer have the words of an earlier row.

    Sees: a few rows copied to give them weight, which no count of rows or epochs shows.
    Misses: copies in other words.
    Confounds: data in which short rows recur by nature.
    Cost: no model; 8 bytes per different row.
    """

    name: ClassVar[str] = "repeated_rows"

    limit: float = Field(default=0.2, ge=0, le=1)

    def tally(self) -> JobTally:
        """Return empty counts."""
        return _Repeated()

    def reason(self, score: float) -> str:
        """Return what the score means."""
        return f"{score:.1%} of the rows repeat an earlier row"


class _Repeated(DistinctRows):
    def score(self, epochs: float) -> float:
        return 1 - self.distinct / self.rows
