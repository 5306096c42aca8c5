"""Thresholds of the upload gate as they are stored: versioned, readable, tied to the gate they were made for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from mithridate.errors import GateError
from mithridate.files import write_whole
from mithridate.validation import sentence


class _OfThresholds(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Level(_OfThresholds):
    """One threshold of a row signal.

    Attributes:
        rate: Share of harmless rows that may lie above it.
        task_rate: Upper bound of the harmless share above it, or, where that is larger, the largest share of a single
            harmless upload above a threshold made of other rows; what uploads are tested against.
        threshold: Rows with a larger score are flagged.
        above: Harmless rows of the calibration above it.
    """

    rate: float = Field(gt=0, lt=1)
    task_rate: float = Field(gt=0, lt=1)
    threshold: FiniteFloat
    above: int = Field(ge=0)


class RowThresholds(_OfThresholds):
    """Thresholds of a row signal; the first level flags rows, all of them count for the upload.

    Attributes:
        signal: Name of the signal.
        levels: From the largest rate to the smallest.
        held_out: Largest share of a harmless upload that is flagged by the first level of thresholds made of the other
            uploads; None where there were fewer than three.
        transfers: Whether no harmless upload was taken for more than that so; a signal that does not transfer to tasks
            it was not calibrated on can have an upload defended against, but not refused.
    """

    signal: str
    levels: tuple[Level, ...] = Field(min_length=1)
    held_out: float | None = Field(default=None, ge=0, le=1)
    transfers: bool = False


class JobThreshold(_OfThresholds):
    """Threshold of a job signal.

    Attributes:
        signal: Name of the signal.
        threshold: Uploads with a larger score are flagged.
        basis: Whether it is the signal's own limit or the largest score of a harmless upload, where that is larger.
    """

    signal: str
    threshold: FiniteFloat
    basis: Literal["limit", "largest harmless upload"]


class GateThresholds(_OfThresholds):
    """What a calibration found.

    Attributes:
        version: Version of this form.
        false_alarms: Share of harmless rows that a signal may flag, and of harmless uploads that row signals together
            may flag.
        confidence: Of the bound on each rate.
        fingerprint: Of the signals, the model and the provider's rows.
        uploads: Rows of each harmless upload.
        rows: Thresholds of row signals.
        jobs: Thresholds of job signals.
    """

    version: Literal[1] = 1
    false_alarms: float = Field(gt=0, lt=1)
    confidence: float = Field(gt=0, lt=1)
    fingerprint: str
    uploads: dict[str, int]
    rows: tuple[RowThresholds, ...]
    jobs: tuple[JobThreshold, ...]

    @property
    def alpha(self) -> float:
        """Share of false alarms that each test of an upload may have, so that all tests together keep to theirs."""
        return self.false_alarms / max(1, sum(len(one.levels) for one in self.rows))

    def table(self) -> str:
        """Return the thresholds as a Markdown table."""
        total = sum(self.uploads.values())
        lines = [
            f"{total} harmless rows of {len(self.uploads)} uploads; false alarms at most {self.false_alarms:.2%} "
            f"at {self.confidence:.0%} confidence",
            "",
            "| Signal | Of | Flagged above | Harmless rate at most | Known task, at worst | New task, at worst |",
            "|---|---|---:|---:|---:|---:|",
        ]
        for row in self.rows:
            for level in row.levels:
                lines.append(
                    f"| {row.signal} | rows | {level.threshold:.4g} | {level.rate:.2%} | {level.task_rate:.2%} | "
                    f"{_held_out(row)} |"
                )
        lines += [f"| {job.signal} | uploads | {job.threshold:.4g} | {job.basis} | | |" for job in self.jobs]
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Write them as JSON."""
        write_whole(Path(path), (self.model_dump_json(indent=2) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> GateThresholds:
        """Read what `save` wrote.

        Raises:
            GateError: The file cannot be read or holds no thresholds of this version.
        """
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except ValidationError as error:
            raise GateError(
                f"{path} holds no thresholds of this gate: {_what(error)}; calibrate the gate anew"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise GateError(f"{path} cannot be read ({error}); calibrate the gate anew") from error


def _held_out(row: RowThresholds) -> str:
    if row.held_out is None:
        return "not known"
    return f"{row.held_out:.1%}" + ("" if row.transfers else ", cannot refuse")


def _what(error: ValidationError) -> str:
    if any(fault["type"] == "json_invalid" for fault in error.errors()):
        return "it is no JSON"
    return sentence(error, GateThresholds)
