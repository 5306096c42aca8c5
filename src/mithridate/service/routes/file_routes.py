"""Files: upload, list, get, read, delete."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from sqlalchemy import Row, select
from starlette.concurrency import run_in_threadpool

from mithridate.service.blob_store import WrittenBlob
from mithridate.service.contract.api_refusal import ApiRefusal
from mithridate.service.contract.cursor_pages import ObjectPage, PageAsk, listed, page_of
from mithridate.service.contract.file_objects import DeletedFile, ExpiresAfter, FileObject, file_object
from mithridate.service.contract.object_ids import new_id
from mithridate.service.database.tables import FILES
from mithridate.service.keys.api_keys import Caller
from mithridate.service.routes.access import Parts, Reader, Writer
from mithridate.service.routes.form_stream import FormReader
from mithridate.service.routes.request_limits import too_large
from mithridate.service.service_parts import ServiceParts
from mithridate.service.uploaded_files import drop, file_row, take_in, unexpired

routes = APIRouter(prefix="/v1/files", tags=["Files"])

FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": ["fine-tune"]},
                    },
                }
            }
        },
    }
}
"""The form for the API's description; it is read by hand, since a framework would hold the file whole."""


def holding(blob: WrittenBlob, most: int, piece: bytes) -> None:
    """Add a piece to a file that may not grow beyond a limit.

    Raises:
        ApiRefusal: If it does.
    """
    if blob.size + len(piece) > most:
        raise too_large(most)
    blob.write(piece)


@routes.post("", operation_id="create_file", openapi_extra=FORM)
async def create_file(request: Request, parts: Parts, caller: Writer) -> FileObject:
    """Upload a JSONL file of training rows."""
    with parts.blobs.begin(new_id("file")) as blob:
        most = parts.settings.sizes.file_bytes
        form = FormReader(request.headers.get("content-type", ""), "file", lambda piece: holding(blob, most, piece))
        await form.read(request.stream())
        seconds = _seconds(form.fields)
        row = await run_in_threadpool(take_in, parts, caller, blob, form.filename or "", seconds)
    return file_object(row)


def _seconds(fields: dict[str, str]) -> int | None:
    """Return how long a file is kept, after checking the form's fields.

    Raises:
        ApiRefusal: Naming the field.
    """
    if fields.get("purpose") != "fine-tune":
        raise ApiRefusal(400, "purpose must be 'fine-tune'; other files are of no use here", param="purpose")
    names = {"expires_after[anchor]", "expires_after[seconds]"} & fields.keys()
    if extra := sorted(fields.keys() - names - {"purpose"}):
        raise ApiRefusal(400, f"there is no field '{extra[0][:80]}'", param=extra[0][:80], code="unknown_parameter")
    if not names:
        return None
    try:
        given = {"anchor": fields.get("expires_after[anchor]"), "seconds": fields.get("expires_after[seconds]")}
        return ExpiresAfter.model_validate(given).seconds
    except ValidationError as error:
        said = "expires_after must be {anchor: created_at, seconds: 3600 to 2592000}"
        raise ApiRefusal(400, said, param="expires_after") from error


@routes.get("", operation_id="list_files")
def list_files(
    parts: Parts,
    caller: Reader,
    purpose: Annotated[str | None, Query(max_length=64)] = None,
    after: Annotated[str | None, Query(max_length=80)] = None,
    limit: Annotated[int, Query(ge=1, le=10000)] = 10000,
    order: Literal["asc", "desc"] = "desc",
) -> ObjectPage[FileObject]:
    """List the project's files."""
    query = select(FILES).where(FILES.c.project_id == caller.project, unexpired())
    if purpose is not None:
        query = query.where(FILES.c.purpose == purpose)
    with parts.database.read() as connection:
        rows, more = page_of(connection, FILES, query, PageAsk(after, limit, order == "desc"))
    return listed([file_object(row) for row in rows], more)


@routes.get("/{file_id}", operation_id="retrieve_file")
def retrieve_file(file_id: str, parts: Parts, caller: Reader) -> FileObject:
    """Return what is known of a file."""
    return file_object(_row(parts, caller, file_id))


@routes.get("/{file_id}/content", operation_id="download_file", response_class=StreamingResponse)
def download_file(file_id: str, parts: Parts, caller: Reader) -> StreamingResponse:
    """Return a file's bytes."""
    row = _row(parts, caller, file_id)
    # Under its id: a name of the customer's in a header is an attack waiting for a client that believes it. As an
    # attachment, or a browser would run what an uploaded page says.
    headers = {
        "Content-Disposition": f'attachment; filename="{row.id}"',
        "Content-Length": str(row.bytes),
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(parts.blobs.read(row.id), media_type="application/octet-stream", headers=headers)


@routes.delete("/{file_id}", operation_id="delete_file")
def delete_file(file_id: str, parts: Parts, caller: Writer) -> DeletedFile:
    """Delete a file."""
    drop(parts, caller, file_id)
    return DeletedFile(id=file_id)


def _row(parts: ServiceParts, caller: Caller, name: str) -> Row[tuple[object, ...]]:
    with parts.database.read() as connection:
        return file_row(connection, caller.project, name)
