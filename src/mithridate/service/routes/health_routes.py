"""Whether the service lives, whether it can take jobs, and its figures."""

import os
import time
from collections.abc import Iterator

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from mithridate.service.database.outages import is_away
from mithridate.service.database.tables import REPORTS
from mithridate.service.policy_facts import POLICY
from mithridate.service.routes.access import Admin, Parts
from mithridate.service.service_parts import ServiceParts
from mithridate.service.worker.outcome_taken import PIPELINE
from mithridate.service.worker.worker_loop import REPORT as WORKER

routes = APIRouter(tags=["Health"])


@routes.get("/healthz", operation_id="health")
async def health() -> dict[str, str]:
    """Tell that the server answers."""
    # Without a thread, of which other requests may hold all.
    return {"status": "ok"}


class Readiness(BaseModel):
    """Whether jobs can be taken and run, or what keeps them from it, by part of the service."""

    ready: bool
    faults: dict[str, str]


@routes.get("/readyz", operation_id="readiness", responses={503: {"model": Readiness}})
def readiness(parts: Parts, response: Response) -> Readiness:
    """Tell whether jobs can be taken and run, or what keeps them from it."""
    faults = dict(_faults(parts))
    response.status_code = 503 if faults else 200
    return Readiness(ready=not faults, faults=faults)


@routes.get("/metrics", operation_id="metrics", response_class=PlainTextResponse)
def metrics(request: Request, caller: Admin) -> PlainTextResponse:
    """Return the figures for Prometheus; it must be given a key with role admin."""
    return PlainTextResponse(generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _faults(parts: ServiceParts) -> Iterator[tuple[str, str]]:
    if not os.access(parts.settings.folder, os.W_OK):
        yield "storage", "the folder cannot be written"
    try:
        with parts.database.read() as connection:
            reports = {row.name: row for row in connection.execute(select(REPORTS))}
    except SQLAlchemyError as error:
        said = "does not answer" if is_away(error) else "is damaged; see the server's output"
        yield "database", f"the database {said}"
        return
    policy = reports.get(POLICY)
    if policy is None or policy.fault is not None:
        # Without its words, which may name folders; the log and the operator's page have them.
        yield "policy", "the policy, a judge or an aligned model cannot act; see the server's output"
    patience = parts.settings.leases.patience
    fresh = [name for name, row in reports.items() if name.startswith(WORKER) and row.at >= time.time() - patience]
    if not fresh:
        yield "workers", f"no worker has shown life for {patience:g} seconds"
    if (pipeline := reports.get(PIPELINE)) is not None and pipeline.fault is not None:
        yield "pipeline", f"the last job that failed did so with {pipeline.fault}"
