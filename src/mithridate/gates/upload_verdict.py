"""What the upload gate says of an upload: a decision, why, and the rows that led to it."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat


class UploadDecision(StrEnum):
    """What becomes of an upload.

    Attributes:
        ACCEPT: It is trained on.
        DEFEND: It is trained on with a defense against harmful rows.
        REFUSE: It is not trained on.
    """

    ACCEPT = "accept"
    DEFEND = "accept and defend"
    REFUSE = "refuse"


class _OfVerdict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class UploadFinding(_OfVerdict):
    """One row that was flagged, or that cannot be read.

    Attributes:
        row: One-based number among the upload's training rows; None for a row that cannot be read.
        origin: File and line, or data set and position.
        scores: Scores of the signals that flagged it, by name.
        reason: What they show, in words.
        excerpt: Beginning of prompt and answer with invisible characters written out; None where it is held back.
    """

    row: int | None
    origin: str
    scores: dict[str, FiniteFloat]
    reason: str
    excerpt: str | None = None

    @property
    def signals(self) -> tuple[str, ...]:
        """Names of the signals that flagged it."""
        return tuple(self.scores)


class SignalResult(_OfVerdict):
    """What one signal says of the whole upload.

    Attributes:
        signal: Its name.
        of: Whether it scores rows or the upload.
        fired: Whether the upload is more than harmless ones are.
        flagged: Rows above the threshold (row signals).
        p_value: Smallest probability, over the levels, of as many rows above among harmless ones (row signals).
        score: The upload's score (job signals).
        reason: The figures in words.
    """

    signal: str
    of: Literal["rows", "upload"]
    fired: bool
    flagged: int | None = None
    p_value: float | None = None
    score: FiniteFloat | None = None
    reason: str


class UploadVerdict(_OfVerdict):
    """The decision on one upload.

    Attributes:
        version: Version of this form.
        decision: What becomes of it.
        reasons: Why, each one sentence; empty where it is accepted.
        upload: Its name.
        rows: Training rows that were read.
        signals: What each signal says of the whole.
        flagged: Rows that any signal flagged.
        findings: The first of them, in their order.
    """

    version: Literal[1] = 1
    decision: UploadDecision
    reasons: tuple[str, ...]
    upload: str
    rows: int = Field(ge=0)
    signals: tuple[SignalResult, ...] = ()
    flagged: int = Field(default=0, ge=0)
    findings: tuple[UploadFinding, ...] = ()

    @property
    def fired(self) -> tuple[str, ...]:
        """Names of the signals by which the upload is more than harmless ones are."""
        return tuple(result.signal for result in self.signals if result.fired)

    def __str__(self) -> str:
        """The decision and its reasons, one line each."""
        head = f"{self.upload}: {self.decision.value} ({self.rows} rows, {self.flagged} flagged)"
        return "\n".join([head, *(f"  {reason}" for reason in self.reasons)])
