"""What happens to jobs: events for the customer, and messages to the addresses that the operator has named."""

import json
from typing import Any, Literal

from sqlalchemy import Connection, insert, select

from mithridate.service.contract.object_ids import new_id, now
from mithridate.service.database.tables import DELIVERIES, EVENTS, JOBS, WEBHOOKS


def tell(
    connection: Connection,
    job: str,
    message: str,
    *,
    level: Literal["info", "warn", "error"] = "info",
    data: dict[str, Any] | None = None,
    kind: Literal["message", "metrics"] = "message",
) -> None:
    """Add an event to a job."""
    connection.execute(
        insert(EVENTS).values(
            id=new_id("event"), job_id=job, created_at=now(), level=level, type=kind, message=message, data=data or {}
        )
    )


def announce(connection: Connection, job: str, state: str) -> None:
    """Have a job's end told to the project's webhooks; they are sent later, since an address may be slow or away."""
    project = connection.execute(select(JOBS.c.project_id).where(JOBS.c.id == job)).scalar_one()
    for webhook in connection.execute(select(WEBHOOKS.c.id).where(WEBHOOKS.c.project_id == project)).scalars():
        name = new_id("delivery")
        body = {
            "id": name,
            "object": "event",
            "created_at": now(),
            "type": f"fine_tuning.job.{state}",
            "data": {"id": job},
        }
        connection.execute(
            insert(DELIVERIES).values(id=name, webhook_id=webhook, body=json.dumps(body), attempts=0, next_at=now())
        )
