"""What every signal of the upload gate is: settings, what it needs, and a score that is higher the more suspicious."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from mithridate.gates.reference import Reference
    from mithridate.gates.row_batch import RowBatch

Need = Literal["model", "harmful", "ordinary", "judge"]
"""What a provider must hand over for a signal: the aligned model, its own streams, a guard."""


class GateSignal(BaseModel):
    """Settings of a signal; they cannot change.

    Attributes:
        name: Name in calibrations, verdicts and policies.
        needs: What the provider must hand over.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    name: ClassVar[str]
    needs: ClassVar[tuple[Need, ...]] = ()


class RowScorer(Protocol):
    """Scores the rows of a block."""

    def __call__(self, batch: RowBatch, /) -> Sequence[float]:
        """Return one score per row, in order."""
        ...


class RowSignal(GateSignal):
    """A signal with a score for each row; its threshold is a quantile over the provider's harmless rows."""

    def prepare(self, reference: Reference) -> RowScorer:
        """Read the provider's streams once, and return what scores rows."""
        raise NotImplementedError

    def reason(self, score: float) -> str:
        """Return in words what a row with this score shows."""
        raise NotImplementedError


class JobTally(Protocol):
    """Counts over the rows of one upload."""

    def add(self, batch: RowBatch, /) -> None:
        """Count a block of rows."""
        ...

    def score(self, epochs: float, /) -> float:
        """Return the upload's score, once all its rows are counted.

        Args:
            epochs: Passes over the data that the customer asks for.
        """
        ...


class JobSignal(GateSignal):
    """A signal with one score for an upload.

    Harmless uploads are too few for a quantile, so the threshold is a stated limit, raised to the largest score among
    them.

    Attributes:
        limit: Largest score that is no surprise.
    """

    limit: float

    def tally(self) -> JobTally:
        """Return counts of an upload, all zero."""
        raise NotImplementedError

    def reason(self, score: float) -> str:
        """Return in words what an upload with this score shows."""
        raise NotImplementedError
