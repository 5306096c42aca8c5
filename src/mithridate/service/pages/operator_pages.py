"""What operators see: the policy in force and its history, the audit log, and keys."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy import select

from mithridate.errors import ServiceError, UsageError
from mithridate.service.contract.api_refusal import ApiRefusal
from mithridate.service.database.tables import AUDIT, AUDIT_HEAD, KEYS, PROJECTS
from mithridate.service.keys.api_keys import create_key, revoke_key
from mithridate.service.pages.page_access import ChangingOperator, Fields, Operating, PageRoute
from mithridate.service.pages.rendering import rendered
from mithridate.service.routes import operator_routes
from mithridate.service.routes.access import Parts
from mithridate.service.service_parts import ServiceParts

pages = APIRouter(route_class=PageRoute, include_in_schema=False)

_CHECKED = 20_000
"""Entries of the audit log that are checked whenever it is shown; a longer log is checked when asked for."""
_HISTORY = 100


@pages.get("/policy")
def policy(request: Request, parts: Parts, visitor: Operating) -> Response:
    """Show the policy in force and those before it."""
    query = select(AUDIT).where(AUDIT.c.action == "policy.loaded").order_by(AUDIT.c.seq.desc()).limit(_HISTORY)
    with parts.database.read() as connection:
        history = _with_changes([{"at": row.at, **json.loads(row.detail)} for row in connection.execute(query)])
    now = operator_routes.policy(parts, visitor.caller)
    return rendered(request, "policy", here="policy", policy=now, history=history, most=_HISTORY)


def _with_changes(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return loads of the policy, the newest first, with whether each brought another one than was known before."""
    known = None  # a load that failed may know no hash: the policy before it still counts
    for one in reversed(history):
        sha256 = one.get("sha256")
        one["changed"] = None not in (known, sha256) and sha256 != known
        known = sha256 or known
    return history


@pages.get("/audit")
def audit(
    request: Request,
    parts: Parts,
    visitor: Operating,
    before: Annotated[int | None, Query(ge=1, lt=2**62)] = None,
    check: bool = False,
) -> Response:
    """Show who did what, and whether the log is whole."""
    found = operator_routes.audit(parts, visitor.caller, before, 50)
    return rendered(request, "audit", here="audit", log=found, verdict=_verdict(parts, check))


def _verdict(parts: ServiceParts, asked: bool) -> dict[str, Any]:
    with parts.database.read() as connection:
        count = connection.execute(select(AUDIT_HEAD.c.seq)).scalar_one_or_none() or 0
    if count > _CHECKED and not asked:
        return {"checked": False, "count": count, "fault": None}
    try:
        return {"checked": True, "count": parts.audit.verify(parts.database), "fault": None}
    except ServiceError as error:
        return {"checked": True, "count": count, "fault": str(error)}


@pages.get("/keys")
def keys(request: Request, parts: Parts, visitor: Operating) -> Response:
    """List the keys; none is told."""
    return _keys(request, parts)


@pages.post("/keys")
def create(request: Request, parts: Parts, fields: Fields, visitor: ChangingOperator) -> Response:
    """Make a key, and tell it once: in the answer to the form and nowhere else."""
    project, name, role = (fields.get(field, "").strip() for field in ("project", "name", "role"))
    try:
        with parts.database.write() as connection:
            made = create_key(connection, project, name, role)
            parts.audit.add(connection, visitor.caller.key, "key.create", made.id, role=role, project=project)
    except UsageError as error:
        return _keys(request, parts, fields=fields, fault=str(error))
    return _keys(request, parts, secret=made.secret)


@pages.post("/keys/{key_id}/revoke")
def revoke(key_id: str, parts: Parts, visitor: ChangingOperator) -> Response:
    """Make a key useless from now on."""
    if key_id == visitor.caller.key:
        raise ApiRefusal(400, "this is the key you have signed in with; sign in with another one to revoke it")
    try:
        with parts.database.write() as connection:
            revoke_key(connection, key_id)
            parts.audit.add(connection, visitor.caller.key, "key.revoke", key_id)
    except UsageError as error:
        raise ApiRefusal(404, f"there is no key '{key_id[:80]}' in use") from error
    return RedirectResponse("/keys", 303)


def _keys(
    request: Request,
    parts: ServiceParts,
    fields: dict[str, str] | None = None,
    fault: str | None = None,
    secret: str | None = None,
) -> Response:
    query = select(KEYS, PROJECTS.c.name.label("project")).join(PROJECTS).order_by(KEYS.c.created_at.desc())
    with parts.database.read() as connection:
        rows = connection.execute(query).all()
    return rendered(
        request,
        "keys",
        status=400 if fault else 200,
        here="keys",
        keys=rows,
        fields=fields or {},
        fault=fault,
        secret=secret,
    )
