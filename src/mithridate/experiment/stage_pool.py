"""Where stages run, and how a scheduler hands them over to what runs several at the same time."""

from typing import NamedTuple, Protocol

from mithridate.errors import DefenseError, UsageError
from mithridate.experiment.jobs import StageNode
from mithridate.experiment.workers import StageTask

ENGINES = ("local", "ray")


class Placement(NamedTuple):
    """Where stages run, and how many at the same time.

    Attributes:
        engine: ``local`` for processes of this machine, ``ray`` for the nodes of a Ray cluster.
        jobs: Stages that run at the same time; None for one here, and for as many as a cluster takes.
        launch: Processes that share each training and each evaluation.
        ray_address: Address of the cluster; None for what `RAY_ADDRESS` names, or a cluster that runs on this machine.
    """

    engine: str = "local"
    jobs: int | None = None
    launch: int = 1
    ray_address: str | None = None

    @property
    def in_this_process(self) -> bool:
        """Whether stages run one after the other in the process of the run."""
        return self.engine == "local" and self.jobs in (None, 1)


def check_placement(placement: Placement) -> None:
    """Refuse a placement that names no engine, or gives one what it does not read.

    Raises:
        UsageError: If it does.
    """
    if placement.engine not in ENGINES:
        raise UsageError(f"engine is '{placement.engine}'; it must be one of: {', '.join(ENGINES)}")
    if placement.jobs is not None and placement.jobs < 1:
        raise UsageError(f"jobs is {placement.jobs}; it must be a number of stages, 1 or more")
    if placement.ray_address is not None and placement.engine != "ray":
        raise UsageError("ray_address is given and engine is local; set engine to ray (--engine ray), or leave it out")


class EndedStage(NamedTuple):
    """A stage that has ended.

    Attributes:
        node: The stage.
        error: Why its defense could not act; None where the stage is done.
    """

    node: StageNode
    error: DefenseError | None


class StagePool(Protocol):
    """Runs several stages at the same time, and tells the run's monitor which have started and how far they are."""

    @property
    def size(self) -> int:
        """How many run at the same time."""

    @property
    def full(self) -> bool:
        """Whether it takes no further stage now."""

    def begin(self, task: StageTask) -> None:
        """Take a stage, whose parent is done."""

    def ended(self) -> list[EndedStage]:
        """Wait a moment, and return the stages that have ended.

        Raises:
            MithridateError: If a stage has failed, unless its defense could not act.
        """
