"""Files of customers: taken in, looked up, listed and deleted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, or_, select

from mithridate.data import check_upload
from mithridate.data.preferences import holds_preferences
from mithridate.data.row_faults import Fault
from mithridate.data.text_files import BoundedReader, start
from mithridate.service.blob_store import WrittenBlob
from mithridate.service.contract.api_refusal import ApiRefusal, not_found
from mithridate.service.contract.file_names import shown_name
from mithridate.service.contract.file_objects import RowErrors
from mithridate.service.contract.object_ids import is_id, new_id, now
from mithridate.service.database.tables import FILES, JOBS, PARTS, PROJECTS, UPLOADS
from mithridate.service.jobs.job_states import TERMINAL
from mithridate.service.keys.api_keys import Caller
from mithridate.service.service_parts import ServiceParts
from mithridate.service.worker.job_leftovers import drop_leftovers, ended_jobs_of
from mithridate.service.worker.row_messages import row_errors, rows_sentence


def file_row(connection: Connection, project: str, name: str) -> Row[Any]:
    """Return the row of one of a project's files.

    Raises:
        ApiRefusal: If the project has no such file, or it has expired.
    """
    row = None
    if is_id(name, "file"):
        query = select(FILES).where(FILES.c.id == name, FILES.c.project_id == project, unexpired())
        row = connection.execute(query).one_or_none()
    if row is None:
        raise not_found("file", name)
    return row


def unexpired() -> Any:
    """Return the condition that a file has not expired."""
    return or_(FILES.c.expires_at.is_(None), FILES.c.expires_at > now())


def take_in(
    parts: ServiceParts,
    caller: Caller,
    blob: WrittenBlob,
    filename: str,
    seconds: int | None,
    with_it: Callable[[Connection, str], None] | None = None,
    upload: str | None = None,
) -> Row[Any]:
    """Take a whole file into the store, and return its row.

    Args:
        parts: The service.
        caller: Who has uploaded it.
        blob: Its bytes.
        filename: Its name as the client gave it.
        seconds: Life of the file; None to keep it until it is deleted.
        with_it: What else is to be changed in the same transaction, given the file's id.
        upload: Upload whose parts it is made of, where it is.

    Raises:
        ApiRefusal: If it is no JSONL, or the project has no room for it.
    """
    if blob.size == 0:
        raise ApiRefusal(400, "the file is empty", param="file", code="empty_file")
    blob.flush()
    if (fault := _first_bytes(blob.path)) is not None:
        message = f"the file must be JSONL: found {fault.found}, expected {fault.expected}"
        raise ApiRefusal(400, message, param="file", code="invalid_file_format")
    errors = _errors(blob.path) if blob.size <= parts.settings.sizes.checked_bytes else None
    name = new_id("file")
    row = {
        "id": name,
        "project_id": caller.project,
        "purpose": "fine-tune",
        "filename": shown_name(filename),
        "bytes": blob.size,
        "sha256": blob.sha256,
        "status": "error" if errors else "processed",
        "status_details": rows_sentence(errors.rows, errors.count) if errors else None,
        "row_errors": errors.model_dump() if errors else None,
        "created_at": now(),
        "expires_at": None if seconds is None else now() + seconds,
    }
    # The bytes first: a row without them would promise what is not there. Bytes without a row are swept later.
    parts.blobs.keep(blob, name)
    with parts.blobs.recording(name), parts.database.write() as connection:
        room(connection, caller.project, blob.size, parts.settings.sizes.stored_bytes, upload)
        connection.execute(insert(FILES).values(**row))
        parts.audit.add(connection, caller.key, "file.create", name, sha256=blob.sha256, bytes=blob.size)
        if with_it is not None:
            with_it(connection, name)
        return connection.execute(select(FILES).where(FILES.c.id == name)).one()


def drop(parts: ServiceParts, caller: Caller, name: str) -> None:
    """Delete a file.

    Raises:
        ApiRefusal: If there is none, or an unfinished job needs it.
    """
    with parts.database.write() as connection:
        row = file_row(connection, caller.project, name)
        uses = or_(JOBS.c.training_file == row.id, JOBS.c.validation_file == row.id)
        busy = select(JOBS.c.id).where(uses, JOBS.c.state.not_in(TERMINAL)).limit(1)
        if (job := connection.execute(busy).scalar_one_or_none()) is not None:
            message = f"job {job} needs file {row.id}; wait for its end or cancel it"
            raise ApiRefusal(409, message, code="file_in_use", headers={"x-should-retry": "false"})
        ended = ended_jobs_of(connection, row.id)
        connection.execute(delete(FILES).where(FILES.c.id == row.id))
        parts.audit.add(connection, caller.key, "file.delete", row.id)
    parts.blobs.delete(row.id)
    # Jobs that were cancelled or lost still hold their copies.
    for job in ended:
        drop_leftovers(parts.settings.jobs_folder / job)


def room(connection: Connection, project: str, size: int, most: int, upload: str | None = None) -> None:
    """Refuse bytes for which a project has no room beside its files and the parts of its unfinished uploads.

    Args:
        connection: A writing transaction; the project's other ones wait for it.
        project: The project.
        size: The bytes.
        most: Bytes that it may have.
        upload: Upload whose parts become the file in question, and are not counted beside it.

    Raises:
        ApiRefusal: If it has no room.
    """
    connection.execute(select(PROJECTS.c.id).where(PROJECTS.c.id == project).with_for_update()).one()
    files = select(func.sum(FILES.c.bytes)).where(FILES.c.project_id == project)
    pending = select(func.sum(PARTS.c.bytes)).join(UPLOADS, UPLOADS.c.id == PARTS.c.upload_id)
    pending = pending.where(UPLOADS.c.project_id == project, UPLOADS.c.id != (upload or ""))
    used = sum(int(connection.execute(query).scalar_one() or 0) for query in (files, pending))
    if used + size > most:
        said = f"the project's files and uploads would be more than {most} bytes; delete files or cancel uploads"
        raise ApiRefusal(429, said, param="file", code="quota_exceeded", headers={"x-should-retry": "false"})


def _first_bytes(path: Path) -> Fault | None:
    """Return what is wrong with a file's first bytes; it is not opened as what it claims to be."""
    with BoundedReader(path) as opened:
        found = start(opened, path)
    return found if isinstance(found, Fault) else None


def _errors(path: Path) -> RowErrors | None:
    # Which method a job will have is not known yet; the file itself tells what it is meant for.
    report = check_upload(path, preferences=holds_preferences(path))
    if not report.fault_count:
        return None
    return RowErrors(count=report.fault_count, rows=row_errors(report.faults))
