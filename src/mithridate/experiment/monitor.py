"""The interface through which the engine reports a run's progress."""

from collections.abc import Sequence

from mithridate.experiment.jobs import StageNode


class Monitor:
    """Receives a run's progress and shows nothing; the command line's subclass draws it.

    The engine calls it from the main process only, also where stages run in workers or on a cluster.
    """

    def planned(self, nodes: Sequence[StageNode], jobs: int) -> None:
        """Called once, before any stage.

        Args:
            nodes: All stages of the run, those already in the store included.
            jobs: Stages that run at the same time.
        """

    def started(self, node: StageNode) -> None:
        """Called when a stage begins."""

    def progressed(self, node: StageNode, done: int, total: int) -> None:
        """Called when a stage has done some more of its work; ``total`` has the same unit as ``done``."""

    def finished(self, node: StageNode) -> None:
        """Called when a stage is done, or was found in the store, then without `started`."""

    def lost(self, node: StageNode, reason: str) -> None:
        """Called when a cluster has lost the worker of a stage, which is begun again and then `started` once more."""

    def told(self, sentence: str) -> None:
        """Called with what a user must know of the released models."""

    def decided(self, training: StageNode) -> None:
        """Called by `mithridate.provider.tuning.tune` once the decision stands, unless the upload was refused.

        Args:
            training: The fine-tuning behind the released model; the first of the ladder where none is released.
        """

    def failed(self, node: StageNode, reason: str) -> None:
        """Called when a stage's defense cannot act, or when a stage before it failed."""
