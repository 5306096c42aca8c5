"""Rows that are scored once, whatever uploads they come in, and what a gate decides on such uploads."""

import json
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mithridate.data.row_reader import TrainingRow
from mithridate.gates.decision_rule import decide, tested_job, tested_rows
from mithridate.gates.intake import Unreadable, row_blocks
from mithridate.gates.row_batch import RowBatch
from mithridate.gates.thresholds import GateThresholds
from mithridate.gates.upload_gate import UploadGate, UploadScores
from mithridate.gates.upload_verdict import UploadDecision

UNREADABLE = "unreadable"
"""Stands for a signal where the gate refuses an upload by its form."""

Row = Mapping[str, Any]
"""A row as a customer writes it."""


class File(NamedTuple):
    """One upload.

    Attributes:
        places: Where its rows lie among the scored ones; None if it cannot be read as training rows.
        epochs: Epochs that are asked for.
    """

    places: Sequence[int] | None
    epochs: float


class Judged(NamedTuple):
    """What a gate says.

    Attributes:
        fired: Signals that fired.
        decision: The decision.
    """

    fired: frozenset[str]
    decision: UploadDecision


class ScoredRows:
    """A gate, and the rows that it has scored so far.

    Args:
        gate: The gate.

    Attributes:
        rows: The rows.
        scores: Their scores, by signal.
    """

    def __init__(self, gate: UploadGate) -> None:
        self.gate = gate
        self.rows: list[TrainingRow] = []
        self.scores: dict[str, list[float]] = {signal.name: [] for signal in gate.row_signals}
        self._places: dict[str, int] = {}

    def places(self, written: Sequence[Row]) -> list[int]:
        """Return where rows lie, and score those that are new.

        Raises:
            Unreadable: If the gate cannot read them as training rows.
        """
        keys = [json.dumps(row, sort_keys=True) for row in written]
        new = {key: row for key, row in zip(keys, written, strict=True) if key not in self._places}
        if new:
            found = self.gate.scores(list(new.values()))
            read = [row for block in row_blocks(list(new.values()), 512) for row in block]
            # A conversation with several answers would train, and be scored as, several rows.
            self._places |= {key: len(self.rows) + at for at, (key, _) in enumerate(zip(new, read, strict=True))}
            self.rows += read
            for name, values in found.rows.items():
                self.scores[name] += values
        return [self._places[key] for key in keys]

    def file(self, written: Sequence[Row], cover: Sequence[int], epochs: float) -> File:
        """Return an upload of some rows among others that lie here already."""
        try:
            return File([*self.places(written), *cover], epochs)
        except Unreadable:
            return File(None, epochs)

    def upload(self, places: Sequence[int], epochs: float) -> UploadScores:
        """Return the scores of an upload; job signals read its texts."""
        tallies = self.gate.tallies()
        for tally in tallies.values():
            tally.add(RowBatch([self.rows[place] for place in places]))
        rows = {name: array("d", [values[place] for place in places]) for name, values in self.scores.items()}
        return UploadScores(rows, self.gate.job_scores(tallies, epochs), len(places))

    def judged(self, file: File, thresholds: GateThresholds) -> Judged:
        """Return what the gate says of an upload; the same tests as in `UploadGate.judge`."""
        if file.places is None:
            return Judged(frozenset({UNREADABLE}), UploadDecision.REFUSE)
        scores = self.upload(file.places, file.epochs)
        results, flagged = [], set()
        for one in thresholds.rows:
            values = scores.rows[one.signal]
            above = [sum(value > level.threshold for value in values) for level in one.levels]
            results.append(tested_rows(one, above, scores.total, thresholds.alpha))
            if results[-1].fired and one.transfers:
                flagged |= {place for place, value in enumerate(values) if value > one.levels[0].threshold}
        limits = {one.signal: one for one in thresholds.jobs}
        results += [
            tested_job(signal, limits[signal.name], scores.jobs[signal.name]) for signal in self.gate.job_signals
        ]
        decision = decide(results, len(flagged), scores.total, self.gate.strictness)
        return Judged(frozenset(result.signal for result in results if result.fired), decision)

    def judged_all(self, files: Sequence[File], thresholds: GateThresholds) -> Judged:
        """Return what the gate says of an attack in several uploads: all signals, and the strictest decision."""
        found = [self.judged(file, thresholds) for file in files]
        strictest = max((one.decision for one in found), key=list(UploadDecision).index)
        return Judged(frozenset().union(*(one.fired for one in found)), strictest)
