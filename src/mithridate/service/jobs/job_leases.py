"""Leases: which worker runs which job, and how a worker that is gone is found without trusting any clock.

Every lease has a number that only grows. A worker shows that it lives by counting up ``beat``; another one that has
seen the same count for the whole patience, by a clock of its own that nobody can set, takes the job over under the next
number. Whatever the first still writes under the old number is not taken.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, select, update

from mithridate.service.contract.job_objects import JobError
from mithridate.service.database.tables import JOBS
from mithridate.service.jobs.job_events import tell
from mithridate.service.jobs.job_states import HELD
from mithridate.service.jobs.transitions import move

WAITING = ("validating_files", "queued")
"""States in which a job may be claimed."""


class Lease(NamedTuple):
    """The right to run a job.

    Attributes:
        job: Id of the job.
        fence: Number of the lease.
    """

    job: str
    fence: int


def claim(connection: Connection, worker: str) -> Lease | None:
    """Claim the job that has waited longest; None where none waits."""
    query = (
        select(JOBS.c.id, JOBS.c.fence)
        .where(JOBS.c.state.in_(WAITING), JOBS.c.worker.is_(None))
        .order_by(JOBS.c.seq)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    found = connection.execute(query).one_or_none()
    return None if found is None else _taken(connection, found.id, found.fence, worker)


def _taken(connection: Connection, job: str, fence: int, worker: str) -> Lease | None:
    query = (
        update(JOBS)
        .where(JOBS.c.id == job, JOBS.c.fence == fence)
        .values(worker=worker, fence=fence + 1, beat=0, attempts=JOBS.c.attempts + 1)
    )
    return Lease(job, fence + 1) if connection.execute(query).rowcount == 1 else None


def holds(connection: Connection, lease: Lease) -> bool:
    """Return whether a lease still stands."""
    query = select(JOBS.c.id).where(JOBS.c.id == lease.job, JOBS.c.fence == lease.fence, JOBS.c.worker.is_not(None))
    return connection.execute(query).one_or_none() is not None


def beat(connection: Connection, lease: Lease, **values: Any) -> bool:
    """Show that the worker lives, with what has changed; False where the lease is lost."""
    query = (
        update(JOBS)
        .where(JOBS.c.id == lease.job, JOBS.c.fence == lease.fence, JOBS.c.worker.is_not(None))
        .values(beat=JOBS.c.beat + 1, **values)
    )
    return connection.execute(query).rowcount == 1


def give_back(
    connection: Connection, lease: Lease, attempts: int, *, blamed: bool, said: str, last: JobError | None = None
) -> None:
    """Return a job that was not finished, so that another worker goes on with it.

    Args:
        connection: A writing transaction.
        lease: The lease.
        attempts: Attempts that a job has.
        blamed: Whether the attempt counts; not where the worker is merely shut down.
        said: What the event says.
        last: Error of a job whose attempts are used up; that its worker was lost by default.
    """
    same = (JOBS.c.id == lease.job) & (JOBS.c.fence == lease.fence) & JOBS.c.worker.is_not(None)
    row = connection.execute(select(JOBS.c.state, JOBS.c.attempts).where(same)).one_or_none()
    if row is None:  # another's by now, or ended
        return
    if blamed and row.attempts >= attempts:
        _lost(connection, lease.job, lease.fence, row.attempts, last)
        return
    _queued(connection, lease.job, lease.fence, row.state)
    if not blamed:
        connection.execute(update(JOBS).where(JOBS.c.id == lease.job).values(attempts=JOBS.c.attempts - 1))
    tell(connection, lease.job, said, level="warn")


def _queued(connection: Connection, job: str, fence: int, state: str) -> None:
    values: dict[str, Any] = {"worker": None, "fence": fence + 1}
    if state == "running":
        values["state"] = "queued"
    connection.execute(update(JOBS).where(JOBS.c.id == job, JOBS.c.fence == fence).values(**values))


def _lost(connection: Connection, job: str, fence: int, attempts: int, last: JobError | None = None) -> None:
    said = f"the job's worker was lost {attempts} times; create the job again, or ask the operator"
    error = last or JobError(code="worker_lost", message=said)
    move(connection, job, "failed", fence=fence, error=error.model_dump(), said=f"The job failed: {error.message}")


class _Sighting(NamedTuple):
    """A lease as it was first seen with this count."""

    fence: int
    beat: int
    at: float


class LeaseWatch:
    """Finds leases whose worker shows no life.

    Args:
        patience: Seconds for which a count may stand still.
        clock: Seconds that only grow; the default is no clock that anyone can set.
    """

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience, self._clock = patience, clock
        self._seen: dict[str, _Sighting] = {}

    def forget(self) -> None:
        """Begin anew: nobody could show life while nobody could look, as when the database was away."""
        self._seen = {}

    def standing(self, rows: Iterable[Row[Any]]) -> list[Row[Any]]:
        """Return the leases, of all that stand now, that have not moved for the whole patience."""
        now, seen, found = self._clock(), {}, []
        for row in rows:
            last = self._seen.get(row.id)
            if last is None or (last.fence, last.beat) != (row.fence, row.beat):
                last = _Sighting(row.fence, row.beat, now)
            seen[row.id] = last
            if now - last.at >= self._patience:
                found.append(row)
        self._seen = seen  # of leases that have ended nothing is kept
        return found


def standing_leases(connection: Connection) -> list[Row[Any]]:
    """Return every lease that stands."""
    columns = (JOBS.c.id, JOBS.c.fence, JOBS.c.beat, JOBS.c.state, JOBS.c.attempts)
    # By state first, which has an index: of many thousand jobs nearly all have ended.
    held = select(*columns).where(JOBS.c.state.in_(HELD), JOBS.c.worker.is_not(None))
    return list(connection.execute(held))


def release_lost(connection: Connection, row: Row[Any], attempts: int) -> bool:
    """Take a job from a worker that is gone, unless it has shown life since.

    Returns:
        Whether the job was taken.
    """
    same = select(JOBS.c.id).where(JOBS.c.id == row.id, JOBS.c.fence == row.fence, JOBS.c.beat == row.beat)
    if connection.execute(same.with_for_update()).one_or_none() is None:
        return False
    if row.attempts >= attempts:
        _lost(connection, row.id, row.fence, row.attempts)
    else:
        _queued(connection, row.id, row.fence, row.state)
        tell(
            connection, row.id, "The job's worker was lost; another one goes on from the last checkpoint", level="warn"
        )
    return True
