"""Writes down how far a job has come, for the worker to read."""

import time
from collections.abc import Sequence
from pathlib import Path

from mithridate.experiment.jobs import StageNode, TrainingJob
from mithridate.experiment.monitor import Monitor
from mithridate.experiment.stage_records import TrainingRecord
from mithridate.experiment.store import Store
from mithridate.service.worker.job_order import ProgressLine, StepLoss

_PART = 1000  # of a stage: stages count in units of their own
_PAUSE = 0.5  # seconds between two lines about the same stage


class JobMonitor(Monitor):
    """Tells a worker about the stages of a job.

    Args:
        path: File of the progress.
        store: The job's stages.
    """

    def __init__(self, path: Path, store: Store) -> None:
        self._path, self._store = path, store
        self._ended, self._total, self._last = 0, 0, 0.0
        self.losses: list[StepLoss] = []

    def tell(self, line: ProgressLine) -> None:
        """Add a line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line.model_dump_json() + "\n")

    def planned(self, nodes: Sequence[StageNode], jobs: int) -> None:
        """Take down how many stages there are at most."""
        self._total = len(nodes)

    def started(self, node: StageNode) -> None:
        """Tell of a stage."""
        self._say("stage", 0, f"Stage started: {node.label}")

    def progressed(self, node: StageNode, done: int, total: int) -> None:
        """Tell how far a stage is, now and then."""
        if time.monotonic() - self._last >= _PAUSE:
            self._last = time.monotonic()
            self._say("steps", int(_PART * done / max(1, total)))

    def finished(self, node: StageNode) -> None:
        """Tell of a stage's end, and of the losses where it was the training on the upload."""
        self._ended += 1
        self._say("steps", 0)
        if isinstance(node.job, TrainingJob):
            self.losses = [StepLoss(*one) for one in self._store.record(node, TrainingRecord).losses]
            self.tell(ProgressLine(kind="losses", losses=self.losses))

    def failed(self, node: StageNode, reason: str) -> None:
        """Count a stage that could not be done; the decision tells the reason."""
        self._ended += 1

    def _say(self, kind: str, part: int, message: str = "") -> None:
        done = _PART * self._ended + part
        line = {"kind": kind, "message": message, "done": done, "total": _PART * max(self._total, self._ended)}
        self.tell(ProgressLine.model_validate(line))
