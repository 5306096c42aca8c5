"""Few rows, trained many times."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from mithridate.gates.base_signal import JobSignal, JobTally
from mithridate.gates.distinct_rows import DistinctRows


class FewRows(JobSignal):
    """Score: passes over each different row, divided by the number of different rows.

    Sees: ten rows trained for ten epochs or more (score 1 and above), as the ten-shot attacks and identity shifting
    are.
    Misses: the same attack among enough other rows.
    Confounds: honest customers with very few examples; 100 rows for 5 epochs score 0.05, 20 rows for 5 epochs 0.25.
    Cost: no model; 8 bytes per different row.
    """

    name: ClassVar[str] = "few_rows"

    limit: float = Field(default=0.25, ge=0)

    def tally(self) -> JobTally:
        """Return empty counts."""
        return _Passes()

    def reason(self, score: float) -> str:
        """Return what the score means."""
        return (
            f"few rows, trained so often that they are learned by heart ({score:.2f} passes per row and different row)"
        )


class _Passes(DistinctRows):
    def score(self, epochs: float) -> float:
        return epochs * self.rows / self.distinct**2
