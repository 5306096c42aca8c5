"""What only operators see: the audit log, and the policy in force."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel
from sqlalchemy import select

from mithridate.service.database.tables import AUDIT, REPORTS
from mithridate.service.policy_facts import POLICY
from mithridate.service.routes.access import Admin, Parts

routes = APIRouter(prefix="/v1/service", tags=["Operator"])


class AuditLine(BaseModel):
    """One entry of the audit log."""

    seq: int
    at: float
    actor: str
    action: str
    target: str
    detail: str
    hash: str


class AuditPage(BaseModel):
    """Entries of the audit log, the newest first, and how many of them the seal holds good for."""

    data: list[AuditLine]
    has_more: bool


@routes.get("/audit", operation_id="list_audit")
def audit(
    parts: Parts,
    caller: Admin,
    before: Annotated[int | None, Query(ge=1, lt=2**62)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> AuditPage:
    """List who did what, the newest first."""
    query = select(AUDIT).order_by(AUDIT.c.seq.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(AUDIT.c.seq < before)
    with parts.database.read() as connection:
        rows = connection.execute(query).all()
    lines = [AuditLine.model_validate(row, from_attributes=True) for row in rows[:limit]]
    return AuditPage(data=lines, has_more=len(rows) > limit)


@routes.get("/policy", operation_id="retrieve_policy")
def policy(parts: Parts, caller: Admin) -> dict[str, Any]:
    """Return the policy in force, and what keeps it from acting."""
    with parts.database.read() as connection:
        row = connection.execute(select(REPORTS).where(REPORTS.c.name == POLICY)).one_or_none()
    return {"fault": "not prepared", "facts": {}} if row is None else {"fault": row.fault, "facts": row.facts}
