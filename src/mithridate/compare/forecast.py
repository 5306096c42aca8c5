"""How far a comparison is and how long it still takes, from the durations it has measured itself."""

import math
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mithridate.pipeline.plan import Node
from mithridate.report.text import seconds


class State(NamedTuple):
    """How far a comparison is.

    Attributes:
        done: Stages that are finished.
        total: All stages.
        running: Names of the stages under way.
        left: Estimated seconds to the end; None where one of the remaining kinds of stage was never measured.
    """

    done: int
    total: int
    running: list[str]
    left: float | None

    def line(self) -> str:
        """The state in one line."""
        left = "estimating…" if self.left is None else f"about {seconds(self.left)} left"
        return f"{self.done}/{self.total} stages · {left} · {', '.join(self.running) or 'waiting'}"


class Forecast:
    """A monitor of the scheduler that estimates the time left.

    A training stage's duration is taken as proportional to its optimizer steps, any other stage's as constant; both are
    measured per stage and method, on stages finished in this call.

    Args:
        nodes: All stages by key.
        names: What each is called.
        jobs: Stages that run at the same time.
        show: Called with the state after every change.
        clock: Seconds.
    """

    def __init__(
        self,
        nodes: dict[str, Node],
        names: dict[str, str],
        jobs: int,
        show: Callable[[State], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._left, self._names, self._jobs, self._show, self._clock = dict(nodes), names, jobs, show, clock
        self._total = len(nodes)
        self._since: dict[str, float] = {}
        self._units: dict[tuple[str, str], float] = {}
        self._seconds: dict[tuple[str, str], float] = {}
        self.made = 0

    def planned(self, total: int) -> None:
        """The run has so many stages."""
        self._show(self.state())

    def started(self, node: Node) -> None:
        """A stage begins."""
        self._since[node.key] = self._clock()
        self._show(self.state())

    def progressed(self, key: str, done: int, total: int) -> None:
        """A stage is so far."""
        self._show(self.state())

    def finished(self, node: Node) -> None:
        """A stage is done, or was found in the store."""
        del self._left[node.key]
        since = self._since.pop(node.key, None)
        if since is not None:
            self.made += 1
            self._units[_kind(node)] = self._units.get(_kind(node), 0.0) + _units(node)
            self._seconds[_kind(node)] = self._seconds.get(_kind(node), 0.0) + self._clock() - since
        self._show(self.state())

    def state(self) -> State:
        """How far the comparison is now."""
        running = [self._names[key] for key in self._since]
        return State(self._total - len(self._left), self._total, running, self._remaining())

    def _remaining(self) -> float | None:
        if any(_kind(node) not in self._units for node in self._left.values()):
            return None
        work = math.fsum(self._expected(node) for node in self._left.values())
        return work / max(1, min(self._jobs, len(self._left)))

    def _expected(self, node: Node) -> float:
        """Seconds that a stage still takes."""
        kind = _kind(node)
        whole = self._seconds[kind] / self._units[kind] * _units(node)
        since = self._since.get(node.key)
        return whole if since is None else max(0.0, whole - (self._clock() - since))


def _kind(node: Node) -> tuple[str, str]:
    return node.stage, node.spec.get("defense", {}).get("method", "")


def _units(node: Node) -> float:
    """Optimizer steps of a training stage, 1 for any other."""
    training = node.spec.get("training")
    if training is None:
        return 1.0
    steps: float = training["epochs"] * math.ceil(_rows(node.spec["rows"].path) / training["batch_size"])
    return steps


@cache
def _rows(path: str) -> int:
    with Path(path).open("rb") as file:
        return sum(1 for _ in file)
