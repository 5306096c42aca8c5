"""Tells a customer of the steps of a training: one event for each step, once, however often the job was started."""

from sqlalchemy import Connection, select

from mithridate.service.database.tables import EVENTS
from mithridate.service.jobs.job_events import tell
from mithridate.service.worker.job_order import StepMetrics

MOST_METRICS = 600
"""Events with figures that a job has at most, whatever its process writes."""


class MetricEvents:
    """The events with figures of one job.

    Args:
        job: The job's id.
    """

    def __init__(self, job: str) -> None:
        self._job = job
        self._told: set[tuple[int, int]] | None = None

    def tell(self, connection: Connection, metrics: StepMetrics) -> None:
        """Add a step's event, unless the job has it or has as many as it may."""
        told = self._known(connection)
        place = (metrics.training, metrics.step)
        if place in told or len(told) >= MOST_METRICS:
            return
        told.add(place)
        tell(connection, self._job, _sentence(metrics), data=metrics.shown(), kind="metrics")

    def forget(self) -> None:
        """Forget what was told, so that it is looked up again: a write that was rolled back has told nobody."""
        self._told = None

    def _known(self, connection: Connection) -> set[tuple[int, int]]:
        """Return training and step of every event that the job has, earlier attempts' included."""
        if self._told is None:
            query = select(EVENTS.c.data).where(EVENTS.c.job_id == self._job, EVENTS.c.type == "metrics")
            found = connection.execute(query).scalars()
            self._told = {(data.get("training", 1), data["step"]) for data in found if "step" in data}
        return self._told


def _sentence(metrics: StepMetrics) -> str:
    figures = {
        "training loss": metrics.train_loss,
        "validation loss": metrics.valid_loss,
        "full validation loss": metrics.full_valid_loss,
    }
    said = ", ".join(f"{name}={value:.4f}" for name, value in figures.items() if value is not None)
    which = f" of training {metrics.training}" if metrics.training > 1 else ""
    return f"Step {metrics.step}/{metrics.total_steps}{which}{f': {said}' if said else ''}"
