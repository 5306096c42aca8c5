"""Figures for Prometheus: requests, jobs by state, and messages that wait."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import func, select

from mithridate.service.database.opened import Database
from mithridate.service.database.tables import DELIVERIES, JOBS

_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)


class ServiceMetrics:
    """The figures of one server process.

    Args:
        database: Where jobs are counted, whenever the figures are asked for.
    """

    def __init__(self, database: Database) -> None:
        self.registry = CollectorRegistry()
        names = ("method", "route", "status")
        self._requests = Counter("mithridate_requests_total", "Requests answered.", names, registry=self.registry)
        self._seconds = Histogram(
            "mithridate_request_seconds", "Time to the end of an answer.", names[:2], buckets=_BOUNDS,
            registry=self.registry,
        )  # fmt: skip
        self.registry.register(_JobFigures(database))

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            method: Its method.
            route: The route as it is declared: paths themselves would make a figure of each object.
            status: Status of the answer.
            seconds: Time it took.
        """
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)


class _JobFigures(Collector):
    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Return the figures as the database has them now."""
        jobs = GaugeMetricFamily("mithridate_jobs", "Jobs by state.", labels=("state",))
        waiting = DELIVERIES.c.delivered_at.is_(None) & DELIVERIES.c.failed_at.is_(None)
        with self._database.read() as connection:
            for state, count in connection.execute(select(JOBS.c.state, func.count()).group_by(JOBS.c.state)):
                jobs.add_metric((state,), count)
            left = connection.execute(select(func.count()).select_from(DELIVERIES).where(waiting)).scalar_one()
        yield jobs
        yield GaugeMetricFamily("mithridate_webhooks_waiting", "Messages not yet delivered.", value=left)
