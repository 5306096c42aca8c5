"""One upload through the gate: counts over its blocks, tests, decision, findings."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mithridate.data.data_sources import Given
from mithridate.data.row_faults import LISTED as FAULTS_LISTED
from mithridate.data.row_faults import show
from mithridate.data.row_fields import RowFields
from mithridate.errors import GateError
from mithridate.gates.decision_rule import decide, tested_job, tested_rows
from mithridate.gates.intake import Unreadable
from mithridate.gates.row_batch import RowBatch
from mithridate.gates.thresholds import GateThresholds, RowThresholds
from mithridate.gates.upload_verdict import SignalResult, UploadDecision, UploadFinding, UploadVerdict

if TYPE_CHECKING:
    from mithridate.gates.upload_gate import ScoredBlock, UploadGate

LISTED = 1000
"""Findings that a verdict holds; all of them go to ``on_finding``."""

OnFinding = Callable[[UploadFinding], None] | None


def judged(
    gate: UploadGate,
    upload: Given,
    epochs: float,
    on_finding: OnFinding,
    *,
    fields: RowFields | Mapping[str, Any] | None,
    ignore: Collection[str],
) -> UploadVerdict:
    """See `UploadGate.judge`."""
    if gate.thresholds is None:
        raise GateError("the gate has no thresholds; calibrate it on harmless uploads and hand it what that returns")
    name = str(upload) if isinstance(upload, str | Path) else "rows"
    counts = _UploadCounts(gate, gate.thresholds, on_finding)
    tallies = gate.tallies()
    try:
        for block in gate.scored(upload, tallies, fields, ignore):
            counts.add(block)
    except Unreadable as error:
        return _unreadable(name, error, on_finding)
    results = [*counts.results(), *_job_results(gate, gate.thresholds, gate.job_scores(tallies, epochs))]
    decision = decide(results, counts.suspicious(results), counts.rows, gate.strictness)
    return UploadVerdict(
        decision=decision,
        reasons=tuple(result.reason for result in results if result.fired),
        upload=name,
        rows=counts.rows,
        signals=tuple(results),
        flagged=counts.flagged,
        findings=tuple(counts.findings),
    )


class _UploadCounts:
    """Counts over the rows read so far."""

    def __init__(self, gate: UploadGate, thresholds: GateThresholds, on_finding: OnFinding) -> None:
        self.rows = self.flagged = 0
        self.findings: list[UploadFinding] = []
        self._most = LISTED
        self._gate, self._thresholds, self._on_finding = gate, thresholds, on_finding
        self._above = {row.signal: [0] * len(row.levels) for row in thresholds.rows}
        # One bit per signal that flagged a row: which of them fire is known only after the last row.
        self._marks = array("L")
        self._reasons = {signal.name: signal.reason for signal in gate.row_signals}

    def add(self, block: ScoredBlock) -> None:
        """Count a block."""
        for signal in self._thresholds.rows:
            values = block.scores[signal.signal]
            for number, level in enumerate(signal.levels):
                self._above[signal.signal][number] += sum(value > level.threshold for value in values)
        for place in range(len(block.batch)):
            over = [one for one in self._thresholds.rows if block.scores[one.signal][place] > one.levels[0].threshold]
            self._marks.append(sum(1 << self._bit(one) for one in over))
            if over:
                self._add_finding(block.batch, place, {one.signal: block.scores[one.signal][place] for one in over})
        self.rows += len(block.batch)

    def results(self) -> list[SignalResult]:
        """Test every row signal."""
        alpha = self._thresholds.alpha
        return [tested_rows(one, self._above[one.signal], self.rows, alpha) for one in self._thresholds.rows]

    def suspicious(self, results: list[SignalResult]) -> int:
        """Return how many rows are flagged by a signal that fired and that transfers to new tasks."""
        fired = {result.signal for result in results if result.fired}
        mask = sum(1 << self._bit(one) for one in self._thresholds.rows if one.transfers and one.signal in fired)
        return sum(bool(mark & mask) for mark in self._marks)

    def _bit(self, one: RowThresholds) -> int:
        return self._thresholds.rows.index(one)

    def _add_finding(self, batch: RowBatch, place: int, scores: dict[str, float]) -> None:
        self.flagged += 1
        if len(self.findings) >= self._most and self._on_finding is None:
            return
        excerpt = f"{show(batch.prompts[place])} -> {show(batch.answers[place])}" if self._gate.excerpts else None
        found = UploadFinding(
            row=batch.first + place,
            origin=batch.rows[place].origin,
            scores=scores,
            reason="; ".join(self._reasons[name](value) for name, value in scores.items()),
            excerpt=excerpt,
        )
        if self._on_finding is not None:
            self._on_finding(found)
        if len(self.findings) < self._most:
            self.findings.append(found)


def _job_results(gate: UploadGate, thresholds: GateThresholds, scores: Mapping[str, float]) -> list[SignalResult]:
    limits = {one.signal: one for one in thresholds.jobs}
    return [tested_job(signal, limits[signal.name], scores[signal.name]) for signal in gate.job_signals]


def _unreadable(name: str, error: Unreadable, on_finding: OnFinding) -> UploadVerdict:
    findings = tuple(
        UploadFinding(row=None, origin=fault.where, scores={}, reason=f"found {fault.found}, expected {fault.expected}")
        for fault in error.faults[:FAULTS_LISTED]
    )
    if on_finding is not None:
        for finding in findings:
            on_finding(finding)
    return UploadVerdict(
        decision=UploadDecision.REFUSE,
        reasons=(error.reason,),
        upload=name,
        rows=0,
        flagged=len(error.faults),
        findings=findings,
    )
