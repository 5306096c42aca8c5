"""Who is told how far a run is."""

from collections.abc import Sequence
from typing import Protocol

from mithridate.experiment.jobs import StageNode


class Monitor(Protocol):
    """Watches the run; the command line draws progress with it."""

    def planned(self, nodes: Sequence[StageNode], jobs: int) -> None:
        """The run has these stages, so many of which run at the same time."""

    def started(self, node: StageNode) -> None:
        """A stage begins."""

    def progressed(self, node: StageNode, done: int, total: int) -> None:
        """A stage is so far."""

    def finished(self, node: StageNode) -> None:
        """A stage is done, or was found in the store."""

    def failed(self, node: StageNode, reason: str) -> None:
        """A stage's method cannot act, or a stage before it failed."""


class Silent:
    """A monitor that shows nothing."""

    def planned(self, nodes: Sequence[StageNode], jobs: int) -> None:
        """Nothing."""

    def started(self, node: StageNode) -> None:
        """Nothing."""

    def progressed(self, node: StageNode, done: int, total: int) -> None:
        """Nothing."""

    def finished(self, node: StageNode) -> None:
        """Nothing."""

    def failed(self, node: StageNode, reason: str) -> None:
        """Nothing."""
