"""Who is told how far a run is."""

from collections.abc import Sequence

from mithridate.experiment.jobs import StageNode


class Monitor:
    """Watches the run and shows nothing; the command line's subclass draws progress."""

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
