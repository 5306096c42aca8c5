"""Writes down how far a job has come, for the worker to read."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

from mithridate.experiment.jobs import PreferenceJob, StageNode, TrainingJob
from mithridate.experiment.monitor import Monitor
from mithridate.experiment.step_figures import StepFigures, read_steps
from mithridate.experiment.store import Store
from mithridate.service.worker.job_order import ProgressLine, StepMetrics

_PART = 1000  # of a stage: stages count in units of their own
DIGITS = 5  # of a figure
_PAUSE = 0.5  # seconds between two lines about the same stage


class JobMonitor(Monitor):
    """Tells a worker about the stages of a job.

    Attributes:
        steps: Figures of the fine-tuning behind the decision; empty before it and where nothing was trained.

    Args:
        path: File of the progress.
        store: The job's stages.
    """

    def __init__(self, path: Path, store: Store) -> None:
        self._path, self._store = path, store
        self._ended, self._total, self._last = 0, 0, 0.0
        self._trainings: list[str] = []
        self._told: set[tuple[str, int]] = set()
        self.steps: list[StepMetrics] = []

    def tell(self, line: ProgressLine) -> None:
        """Add a line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line.model_dump_json() + "\n")

    def planned(self, nodes: Sequence[StageNode], jobs: int) -> None:
        """Take down how many stages there are at most, and tell what an earlier attempt may not have told."""
        self._total = len(nodes)
        self._trainings = [node.key for node in nodes if isinstance(node.job, TrainingJob | PreferenceJob)]
        for node in nodes:
            self._tell_steps(node, self._store.path(node))

    def started(self, node: StageNode) -> None:
        """Tell of a stage."""
        self._say("stage", 0, f"Stage started: {node.label}")

    def progressed(self, node: StageNode, done: int, total: int) -> None:
        """Tell how far a stage is, now and then."""
        if time.monotonic() - self._last >= _PAUSE:
            self._last = time.monotonic()
            self._say("steps", int(_PART * done / max(1, total)))
            # Not of the last step yet: the whole validation file is scored when the training is done.
            self._tell_steps(node, self._store.working(node), until=total - 1)

    def finished(self, node: StageNode) -> None:
        """Tell of a stage's end."""
        self._ended += 1
        self._say("steps", 0)
        self._tell_steps(node, self._store.path(node))

    def decided(self, training: StageNode) -> None:
        """Keep the figures of the fine-tuning behind the decision."""
        folder = self._store.path(training)
        self._tell_steps(training, folder)
        self.steps = [_metrics(one, self._number(training)) for one in read_steps(folder)]

    def failed(self, node: StageNode, reason: str) -> None:
        """Count a stage that could not be done; the decision tells the reason."""
        self._ended += 1

    def _tell_steps(self, node: StageNode, folder: Path, until: float = math.inf) -> None:
        """Tell of the steps of a training that are new in its folder; any other stage has none."""
        if not isinstance(node.job, TrainingJob | PreferenceJob):
            return
        found = [one for one in read_steps(folder) if one.step <= until and (node.key, one.step) not in self._told]
        self._told |= {(node.key, one.step) for one in found}
        if found:
            self.tell(ProgressLine(kind="metrics", metrics=[_metrics(one, self._number(node)) for one in found]))

    def _number(self, training: StageNode) -> int:
        """Return which of the trainings it is, from 1; of a decision that was found there is no plan, and it counts."""
        return self._trainings.index(training.key) + 1 if training.key in self._trainings else 1

    def _say(self, kind: str, part: int, message: str = "") -> None:
        done = _PART * self._ended + part
        line = {"kind": kind, "message": message, "done": done, "total": _PART * max(self._total, self._ended)}
        self.tell(ProgressLine.model_validate(line))


def _metrics(told: StepFigures, training: int) -> StepMetrics:
    """Return what a training tells of a step, under the names of the contract."""
    figures = {
        "train_loss": told.loss,
        "train_mean_token_accuracy": told.accuracy,
        "valid_loss": told.valid_loss,
        "valid_mean_token_accuracy": told.valid_accuracy,
        "full_valid_loss": told.full_valid_loss,
        "full_valid_mean_token_accuracy": told.full_valid_accuracy,
    }
    rounded = {name: round(value, DIGITS) for name, value in figures.items() if value is not None}
    return StepMetrics(training=training, step=told.step, total_steps=told.total, **rounded)
