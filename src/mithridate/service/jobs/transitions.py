"""Moves a job from state to state; a move that is not allowed does nothing."""

from typing import Any

from sqlalchemy import Connection, update

from mithridate.service.contract.object_ids import now
from mithridate.service.database.tables import JOBS
from mithridate.service.jobs.job_events import announce, tell
from mithridate.service.jobs.job_states import TERMINAL, before

WORDS = {
    "queued": "Files validated, job is queued",
    "running": "Fine-tuning job started",
    "paused": "Fine-tuning job paused",
    "succeeded": "The job has successfully completed",
    "failed": "The job failed",
    "cancelled": "Fine-tuning job cancelled",
}
"""What an event says of a move."""


def move(
    connection: Connection, job: str, to: str, *, fence: int | None = None, said: str | None = None, **values: Any
) -> bool:
    """Move a job to another state.

    Args:
        connection: A writing transaction.
        job: The job's id.
        to: The state to move to.
        fence: Number of the lease under which the caller acts; None for a customer's wish, which ends any lease.
        said: What the event says, where that is not the usual.
        values: Further columns.

    Returns:
        Whether it was moved: not if its state does not allow it, or if the lease is another's by now.
    """
    query = update(JOBS).where(JOBS.c.id == job, JOBS.c.state.in_(before(to)))
    values = values | {"state": to}
    if to in TERMINAL:
        values |= {"finished_at": now(), "worker": None}
    if fence is None:
        # Whoever ran the job finds its number overtaken, and none of what it still writes is taken.
        values |= {"fence": JOBS.c.fence + 1, "worker": None}
    else:
        query = query.where(JOBS.c.fence == fence)
    if connection.execute(query.values(**values)).rowcount != 1:
        return False
    tell(connection, job, said or WORDS[to], level="error" if to == "failed" else "info")
    if to in TERMINAL:
        announce(connection, job, to)
    return True
