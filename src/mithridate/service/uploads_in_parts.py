"""Uploads in parts: begun, added to, and put together into one file."""

import hashlib
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from mithridate.service.blob_store import WrittenBlob
from mithridate.service.contract.api_refusal import ApiRefusal, not_found
from mithridate.service.contract.file_names import shown_name
from mithridate.service.contract.file_objects import (
    CompletionRequest,
    FileObject,
    PartObject,
    UploadObject,
    UploadRequest,
    file_object,
)
from mithridate.service.contract.object_ids import is_id, new_id, now
from mithridate.service.database.tables import FILES, PARTS, UPLOADS
from mithridate.service.keys.api_keys import Caller
from mithridate.service.service_parts import ServiceParts
from mithridate.service.uploaded_files import room, take_in

LIFE = 3600
"""Seconds in which an upload must be completed, as with OpenAI."""


def begin_upload(parts: ServiceParts, caller: Caller, asked: UploadRequest) -> UploadObject:
    """Begin an upload.

    Raises:
        ApiRefusal: If it would be too large.
    """
    if asked.bytes > parts.settings.sizes.upload_bytes:
        said = f"bytes is {asked.bytes}; an upload may have at most {parts.settings.sizes.upload_bytes}"
        raise ApiRefusal(400, said, param="bytes")
    name = new_id("upload")
    with parts.database.write() as connection:
        connection.execute(
            insert(UPLOADS).values(
                id=name,
                project_id=caller.project,
                filename=shown_name(asked.filename),
                purpose=asked.purpose,
                bytes=asked.bytes,
                status="pending",
                created_at=now(),
                expires_at=now() + LIFE,
                file_seconds=None if asked.expires_after is None else asked.expires_after.seconds,
            )
        )
        parts.audit.add(connection, caller.key, "upload.create", name, bytes=asked.bytes)
        return _object(_upload(connection, caller, name))


def add_part(parts: ServiceParts, caller: Caller, name: str, blob: WrittenBlob) -> PartObject:
    """Add a part to an upload.

    Raises:
        ApiRefusal: If there is no such upload, it is not pending, its parts would be longer than it said, or the
            project has no room for them.
    """
    with parts.database.read() as connection:
        _pending(connection, caller, name)
    part = new_id("part")
    parts.blobs.keep(blob, part)
    with parts.blobs.recording(part), parts.database.write() as connection:
        # First, as wherever a file is taken in: two that lock project and upload crosswise would wait forever.
        room(connection, caller.project, blob.size, parts.settings.sizes.stored_bytes)
        upload = _pending(connection, caller, name)
        sums = select(func.sum(PARTS.c.bytes)).where(PARTS.c.upload_id == upload.id)
        if int(connection.execute(sums).scalar_one() or 0) + blob.size > upload.bytes:
            said = f"the parts would be longer than the {upload.bytes} bytes that the upload was begun with"
            raise ApiRefusal(400, said, param="data")
        row = {"id": part, "upload_id": upload.id, "bytes": blob.size, "created_at": now()}
        connection.execute(insert(PARTS).values(**row))
    return PartObject(id=part, created_at=now(), upload_id=name)


def complete_upload(parts: ServiceParts, caller: Caller, name: str, asked: CompletionRequest) -> UploadObject:
    """Put an upload's parts together.

    Raises:
        ApiRefusal: If a part is not the upload's, or the whole is not what was announced.
    """
    with parts.database.read() as connection:
        upload = _upload(connection, caller, name)
        if upload.status == "completed":  # asked again after an answer that was lost
            return _object(upload, _file(connection, upload))
        _refuse_ended(upload)
        owned = set(connection.execute(select(PARTS.c.id).where(PARTS.c.upload_id == upload.id)).scalars())
    for place, part in enumerate(asked.part_ids):
        if part not in owned:
            raise ApiRefusal(400, f"the upload has no part '{part[:80]}'", param=f"part_ids.{place}")
    with parts.blobs.begin(new_id("file")) as blob:
        found = hashlib.md5(usedforsecurity=False)
        for part in asked.part_ids:
            for piece in parts.blobs.read(part):
                if blob.size + len(piece) > upload.bytes:
                    raise _another_size(upload)
                blob.write(piece)
                found.update(piece)
        if blob.size != upload.bytes:
            raise _another_size(upload)
        if asked.md5 is not None and asked.md5.lower() != found.hexdigest():
            raise ApiRefusal(400, f"md5 is {asked.md5}; that of the parts is {found.hexdigest()}", param="md5")

        def completed(connection: Connection, file: str) -> None:
            # Within the transaction that makes the file: of two that complete the same upload one finds it completed.
            _pending(connection, caller, name)
            done = update(UPLOADS).where(UPLOADS.c.id == name).values(status="completed", file_id=file)
            connection.execute(done)

        row = take_in(parts, caller, blob, upload.filename, upload.file_seconds, completed, name)
    _drop_parts(parts, name)
    with parts.database.read() as connection:
        return _object(_upload(connection, caller, name), file_object(row))


def cancel_upload(parts: ServiceParts, caller: Caller, name: str) -> UploadObject:
    """Give an upload up.

    Raises:
        ApiRefusal: If it is completed or has expired.
    """
    with parts.database.write() as connection:
        upload = _upload(connection, caller, name)
        if upload.status != "cancelled":
            _refuse_ended(upload)
            connection.execute(update(UPLOADS).where(UPLOADS.c.id == name).values(status="cancelled"))
            parts.audit.add(connection, caller.key, "upload.cancel", name)
        found = _object(_upload(connection, caller, name))
    _drop_parts(parts, name)
    return found


def expire_uploads(parts: ServiceParts) -> int:
    """End the uploads whose time is over; return how many there were."""
    late = (UPLOADS.c.status == "pending") & (UPLOADS.c.expires_at <= now())
    with parts.database.write() as connection:
        names = list(connection.execute(select(UPLOADS.c.id).where(late)).scalars())
        connection.execute(update(UPLOADS).where(late).values(status="expired"))
    for name in names:
        _drop_parts(parts, name)
    return len(names)


def _drop_parts(parts: ServiceParts, upload: str) -> None:
    with parts.database.write() as connection:
        names = list(connection.execute(select(PARTS.c.id).where(PARTS.c.upload_id == upload)).scalars())
        connection.execute(delete(PARTS).where(PARTS.c.upload_id == upload))
    for name in names:
        parts.blobs.delete(name)


def _upload(connection: Connection, caller: Caller, name: str) -> Row[Any]:
    row = None
    if is_id(name, "upload"):
        query = select(UPLOADS).where(UPLOADS.c.id == name, UPLOADS.c.project_id == caller.project)
        row = connection.execute(query.with_for_update()).one_or_none()
    if row is None:
        raise not_found("upload", name)
    return row


def _pending(connection: Connection, caller: Caller, name: str) -> Row[Any]:
    row = _upload(connection, caller, name)
    _refuse_ended(row)
    return row


def _refuse_ended(upload: Row[Any]) -> None:
    status = "expired" if upload.status == "pending" and upload.expires_at <= now() else upload.status
    if status != "pending":
        raise ApiRefusal(400, f"upload {upload.id} is {status}; begin another one", param="upload_id")


def _another_size(upload: Row[Any]) -> ApiRefusal:
    return ApiRefusal(
        400, f"the parts are not the {upload.bytes} bytes that the upload was begun with", param="part_ids"
    )


def _file(connection: Connection, upload: Row[Any]) -> FileObject | None:
    row = connection.execute(select(FILES).where(FILES.c.id == upload.file_id)).one_or_none()
    return None if row is None else file_object(row)


def _object(row: Row[Any], file: FileObject | None = None) -> UploadObject:
    tree = {name: getattr(row, name) for name in UploadObject.model_fields if name not in ("object", "file")}
    return UploadObject(**tree, file=file)
