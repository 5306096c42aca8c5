"""Released models: looked up by name, shared, and deleted. Nothing else is a model to anyone outside."""

import re
import shutil
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, insert, or_, select, update

from mithridate.provider.judged_files import MODEL
from mithridate.service.contract.api_refusal import ApiRefusal, not_found
from mithridate.service.contract.object_ids import new_id, now
from mithridate.service.database.tables import MODELS, PERMISSIONS, PROJECTS
from mithridate.service.keys.api_keys import Caller
from mithridate.service.service_parts import ServiceParts
from mithridate.service.worker.job_leftovers import drop_leftovers
from mithridate.service.worker.job_order import DECISION_FOLDER


def usable(project: str) -> Any:
    """Return the condition that a project may use a model: its own, or shared with it."""
    shared = select(PERMISSIONS.c.model_id).where(PERMISSIONS.c.project_id == project)
    return MODELS.c.deleted_at.is_(None) & or_(MODELS.c.project_id == project, MODELS.c.id.in_(shared))


def model_row(connection: Connection, project: str, name: str, *, own: bool = False) -> Row[Any]:
    """Return the row of a released model, by its name or that of its checkpoint.

    Args:
        connection: The database.
        project: Who asks.
        name: Name of the model or of its checkpoint.
        own: Whether it must be the project's own.

    Raises:
        ApiRefusal: If there is none that the project may use.
    """
    plain = re.sub(r":ckpt-step-\d+$", "", name)
    row = connection.execute(select(MODELS).where(MODELS.c.id == plain, usable(project))).one_or_none()
    wrong_step = row is not None and name not in (plain, f"{plain}:ckpt-step-{row.step}")
    if row is None or wrong_step or (own and row.project_id != project):
        raise not_found("model", name)
    return row


def model_folder(parts: ServiceParts, row: Row[Any]) -> Path:
    """Return the folder of a released model's files."""
    return parts.settings.jobs_folder / str(row.job_id) / DECISION_FOLDER / MODEL


def delete_model(parts: ServiceParts, caller: Caller, name: str) -> None:
    """Delete a released model and its files.

    Raises:
        ApiRefusal: If the project has none of that name.
    """
    with parts.database.write() as connection:
        row = model_row(connection, caller.project, name, own=True)
        connection.execute(update(MODELS).where(MODELS.c.id == row.id).values(deleted_at=now()))
        parts.audit.add(connection, caller.key, "model.delete", row.id)
    # After the transaction: a model that is listed but has no files would be worse than files that nobody lists.
    shutil.rmtree(model_folder(parts, row), ignore_errors=True)
    drop_leftovers(parts.settings.jobs_folder / str(row.job_id))


def share(parts: ServiceParts, caller: Caller, name: str, projects: list[str]) -> list[Row[Any]]:
    """Let other projects use a model, and return the permissions.

    Raises:
        ApiRefusal: If the model is not the project's, or there is no such project.
    """
    with parts.database.write() as connection:
        row = model_row(connection, caller.project, name, own=True)
        found = []
        for project in projects:
            if connection.execute(select(PROJECTS.c.id).where(PROJECTS.c.id == project)).one_or_none() is None:
                raise ApiRefusal(400, f"there is no project '{project[:80]}'", param="project_ids")
            same = (PERMISSIONS.c.model_id == row.id) & (PERMISSIONS.c.project_id == project)
            if connection.execute(select(PERMISSIONS).where(same)).one_or_none() is None:
                values = {"id": new_id("permission"), "model_id": row.id, "project_id": project, "created_at": now()}
                connection.execute(insert(PERMISSIONS).values(**values))
                parts.audit.add(connection, caller.key, "model.share", row.id, project=project)
            found.append(connection.execute(select(PERMISSIONS).where(same)).one())
    return found
