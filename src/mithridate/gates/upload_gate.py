"""The upload gate: one pass over a customer's rows, a decision, and reasons row by row."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from mithridate.data.data_sources import Given
from mithridate.data.row_fields import RowFields
from mithridate.errors import GateError
from mithridate.gates.base_signal import GateSignal, JobSignal, JobTally, RowSignal
from mithridate.gates.decision_rule import Strictness
from mithridate.gates.gate_state import GateState
from mithridate.gates.intake import check_control_tokens, row_blocks
from mithridate.gates.judging import judged
from mithridate.gates.provider import GateProvider
from mithridate.gates.row_batch import RowBatch
from mithridate.gates.signal_catalog import JOB_SIGNALS, ROW_SIGNALS, default_signals
from mithridate.gates.thresholds import GateThresholds
from mithridate.gates.upload_verdict import UploadFinding, UploadVerdict
from mithridate.nearest import did_you_mean


class ScoredBlock(NamedTuple):
    """A block of rows with the row signals' scores, by signal."""

    batch: RowBatch
    scores: dict[str, Sequence[float]]


class UploadScores(NamedTuple):
    """All scores of one upload, by signal.

    Attributes:
        rows: One score per row of each row signal.
        jobs: The score of each job signal.
        total: Rows.
    """

    rows: dict[str, array[float]]
    jobs: dict[str, float]
    total: int


class UploadGate:
    """Decides whether a customer's rows may be trained on: accept, accept and defend, or refuse.

    It reads an upload once, in blocks; memory grows by some 20 bytes a row. The same upload gets the same verdict.

    Args:
        provider: The aligned model and the provider's own rows.
        signals: What is looked at; all but the optional ones by default.
        thresholds: What `mithridate.gates.calibration.calibrate` found for this gate; None until then.
        refuse_share: An upload is refused if surely more than this share of its rows is flagged by signals
            that fired and that transfer to new tasks.
        refused_by: Signals that refuse an upload when they fire, however few its flagged rows.
        excerpts: Whether findings quote the rows; set it to False for what a customer sees.
        block: Rows that are held at a time.

    Raises:
        GateError: If a signal lacks what it needs, two signals have one name, or the thresholds are those of another
            gate.
    """

    def __init__(
        self,
        provider: GateProvider,
        signals: Sequence[GateSignal] | None = None,
        *,
        thresholds: GateThresholds | None = None,
        refuse_share: float = 0.1,
        refused_by: Collection[str] = ("hidden_characters", "few_rows"),
        excerpts: bool = True,
        block: int = 512,
    ) -> None:
        self.provider = provider
        self.signals = tuple(default_signals() if signals is None else signals)
        names = [signal.name for signal in self.signals]
        if not names or len(set(names)) < len(names):
            raise GateError("a gate needs one signal or more, each once; give other signals")
        if not 0 <= refuse_share <= 1 or block < 1:
            raise GateError(f"refuse_share must lie within 0..1 and block be positive, not {refuse_share} and {block}")
        known = {*names, *(kind.name for kind in (*ROW_SIGNALS, *JOB_SIGNALS))}
        for name in refused_by:
            if name not in known:
                raise GateError(
                    f"refused_by names no signal: '{name}'; {did_you_mean(name, sorted(known), cutoff=0.5)}"
                )
        provider.require(self.signals)
        self.strictness = Strictness(refuse_share, frozenset(refused_by))
        self.excerpts, self._block = excerpts, block
        self.thresholds: GateThresholds | None = None
        if thresholds is not None:
            self.use(thresholds)

    @property
    def row_signals(self) -> list[RowSignal]:
        """Signals that score rows."""
        return [signal for signal in self.signals if isinstance(signal, RowSignal)]

    @property
    def job_signals(self) -> list[JobSignal]:
        """Signals that score uploads."""
        return [signal for signal in self.signals if isinstance(signal, JobSignal)]

    @cached_property
    def state(self) -> GateState:
        """The signals made ready, on first use."""
        return GateState(self.provider, self.signals)

    def use(self, thresholds: GateThresholds) -> None:
        """Decide by these thresholds from here on.

        Raises:
            GateError: If they were made for other signals, another model or other rows of the provider.
        """
        if thresholds.fingerprint != self.state.fingerprint:
            raise GateError(
                "the thresholds were calibrated for another gate: its signals, model or provider's rows differ; "
                "calibrate this gate"
            )
        self.thresholds = thresholds

    def judge(
        self,
        upload: Given,
        *,
        epochs: float = 1,
        fields: RowFields | Mapping[str, Any] | None = None,
        ignore: Collection[str] = (),
        on_finding: Callable[[UploadFinding], None] | None = None,
    ) -> UploadVerdict:
        """Decide on an upload.

        Args:
            upload: A file, or rows, as for `mithridate.load_rows`.
            epochs: Passes over it that the customer asks for.
            fields: As for `mithridate.load_rows`.
            ignore: As for `mithridate.load_rows`.
            on_finding: Called with each finding in turn, for a file that holds all of them.

        Raises:
            GateError: If the gate cannot run: it has no thresholds, its model changed, a score is no number, a guard
                fails.
            DataError: If there is no such data.
            UsageError: If an argument cannot be used.
        """
        return judged(self, upload, epochs, on_finding, fields=fields, ignore=ignore)

    def scores(self, upload: Given, *, epochs: float = 1) -> UploadScores:
        """Return all scores of an upload, without deciding.

        Raises:
            GateError: As for `judge`.
            Unreadable: If the upload cannot be read.
        """
        tallies = self.tallies()
        rows: dict[str, array[float]] = {signal.name: array("d") for signal in self.row_signals}
        total = 0
        for block in self.scored(upload, tallies):
            total += len(block.batch)
            for name, values in block.scores.items():
                rows[name].extend(values)
        return UploadScores(rows, self.job_scores(tallies, epochs), total)

    def tallies(self) -> dict[str, JobTally]:
        """Return empty counts of the job signals."""
        return {signal.name: signal.tally() for signal in self.job_signals}

    def scored(
        self,
        upload: Given,
        tallies: Mapping[str, JobTally],
        fields: RowFields | Mapping[str, Any] | None = None,
        ignore: Collection[str] = (),
    ) -> Iterator[ScoredBlock]:
        """Yield an upload's rows in blocks, with their scores; job signals are counted along.

        Raises:
            GateError: If a score is no number, or the model has changed.
            Unreadable: If the upload cannot be read.
        """
        self.state.check_model()
        first = 1
        for rows in row_blocks(upload, self._block, fields, ignore):
            if self.state.control_tokens is not None:
                check_control_tokens(rows, self.state.control_tokens)
            batch = RowBatch(rows, first, self.state.reader)
            for tally in tallies.values():
                tally.add(batch)
            yield ScoredBlock(
                batch, {name: _checked(name, score(batch), batch) for name, score in self.state.scorers.items()}
            )
            first += len(rows)

    def job_scores(self, tallies: Mapping[str, JobTally], epochs: float) -> dict[str, float]:
        """Return the job signals' scores.

        Raises:
            GateError: If one is no number.
        """
        if not epochs > 0 or math.isinf(epochs):
            raise GateError(f"epochs must be a positive number, not {epochs}")
        found = {name: tally.score(epochs) for name, tally in tallies.items()}
        for name, value in found.items():
            if not math.isfinite(value):
                raise GateError(f"the signal '{name}' gave {value} for the upload, so the gate cannot decide")
        return found


def _checked(name: str, scores: Sequence[float], batch: RowBatch) -> Sequence[float]:
    if len(scores) != len(batch):
        raise GateError(
            f"the signal '{name}' gave {len(scores)} scores for {len(batch)} rows, so the gate cannot decide"
        )
    for row, value in zip(batch.rows, scores, strict=True):
        if not math.isfinite(value):
            raise GateError(
                f"the signal '{name}' gave {value} for {row.origin}, so the gate cannot decide; "
                "check the model for NaN and the row for what it cannot read"
            )
    return scores
