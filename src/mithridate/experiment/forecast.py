"""Estimates how long a run still takes, from the durations measured in this run."""

import math
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mithridate.experiment.jobs import PreferenceJob, StageNode, TrainingJob
from mithridate.report.text import seconds


class RunProgress(NamedTuple):
    """How far a run is.

    Attributes:
        done: Stages that are finished, or that cannot be done.
        total: All stages.
        running: Names of the stages under way.
        left: Estimated seconds to the end; None as long as a remaining kind of stage has not been measured.
    """

    done: int
    total: int
    running: list[str]
    left: float | None

    def line(self) -> str:
        """Return the progress in one line."""
        return f"{self.counted()} · {', '.join(self.running) or 'waiting'}"

    def counted(self) -> str:
        """Return stages done and the estimate of the time left."""
        left = "estimating…" if self.left is None else f"about {seconds(self.left)} left"
        return f"{self.done}/{self.total} stages · {left}"


class Forecast:
    """Estimates the time left.

    A training stage's duration is taken as proportional to its optimizer steps, any other stage's as constant; both are
    measured per stage and method, on stages finished in this call.

    Args:
        nodes: All stages.
        jobs: Stages that run at the same time.
        clock: Returns the time in seconds; tests bring their own.
    """

    def __init__(self, nodes: Sequence[StageNode], jobs: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._left, self._jobs, self._clock = {node.key: node for node in nodes}, jobs, clock
        self._total = len(nodes)
        self._since: dict[str, float] = {}
        self._units: dict[tuple[str, str], float] = {}
        self._seconds: dict[tuple[str, str], float] = {}

    def started(self, node: StageNode) -> None:
        """A stage begins."""
        self._since[node.key] = self._clock()

    def finished(self, node: StageNode) -> float | None:
        """Count a stage that is done, or was found in the store.

        Returns:
            Seconds it took; None where it was in the store.
        """
        del self._left[node.key]
        since = self._since.pop(node.key, None)
        if since is None:
            return None
        taken = self._clock() - since
        # Sums, not a mean of rates: long stages count for more, since start-up time distorts short ones.
        self._units[_kind(node)] = self._units.get(_kind(node), 0.0) + _units(node)
        self._seconds[_kind(node)] = self._seconds.get(_kind(node), 0.0) + taken
        return taken

    def failed(self, node: StageNode) -> None:
        """Count a stage that cannot be done; its time says nothing about others."""
        del self._left[node.key]
        # A stage left out because of another was never started.
        self._since.pop(node.key, None)

    def progress(self) -> RunProgress:
        """Return how far the run is now."""
        running = [self._left[key].label for key in self._since]
        return RunProgress(self._total - len(self._left), self._total, running, self._remaining())

    def _remaining(self) -> float | None:
        if any(_kind(node) not in self._units for node in self._left.values()):
            return None
        # Work over workers; chains leave some idle toward the end, so this is rather too short than too long.
        work = math.fsum(self._expected(node) for node in self._left.values())
        return work / max(1, min(self._jobs, len(self._left)))

    def _expected(self, node: StageNode) -> float:
        """Seconds that a stage still takes."""
        kind = _kind(node)
        whole = self._seconds[kind] / self._units[kind] * _units(node)
        since = self._since.get(node.key)
        # A stage that takes longer than expected must not shorten the others.
        return whole if since is None else max(0.0, whole - (self._clock() - since))


def _kind(node: StageNode) -> tuple[str, str]:
    return node.stage, node.job.method


def _units(node: StageNode) -> float:
    """Optimizer steps of a training stage, 1 for any other."""
    if not isinstance(node.job, TrainingJob | PreferenceJob):
        return 1.0
    training = node.job.training
    return training.epochs * math.ceil(_rows(node.job.rows.path) / training.batch_size)


# Cached because every step of a training asks again for all stages that are left; inputs never change in place.
@cache
def _rows(path: str) -> int:
    with Path(path).open("rb") as file:
        return sum(1 for _ in file)
