"""Uploads in parts, for files that are too large for one request."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from mithridate.service.contract.api_refusal import ApiRefusal
from mithridate.service.contract.file_objects import CompletionRequest, PartObject, UploadObject, UploadRequest
from mithridate.service.contract.object_ids import new_id
from mithridate.service.routes.access import Parts, Writer
from mithridate.service.routes.file_routes import holding
from mithridate.service.routes.form_stream import FormReader
from mithridate.service.uploads_in_parts import add_part, begin_upload, cancel_upload, complete_upload

routes = APIRouter(prefix="/v1/uploads", tags=["Uploads"])

_DATA = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string", "format": "binary"}}}
FORM: dict[str, Any] = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _DATA}}}}


@routes.post("", operation_id="create_upload")
def create(body: UploadRequest, parts: Parts, caller: Writer) -> UploadObject:
    """Begin an upload."""
    return begin_upload(parts, caller, body)


@routes.post("/{upload_id}/parts", operation_id="add_upload_part", openapi_extra=FORM)
async def add(upload_id: str, request: Request, parts: Parts, caller: Writer) -> PartObject:
    """Add a part to an upload."""
    with parts.blobs.begin(new_id("part")) as blob:
        most = parts.settings.sizes.part_bytes
        form = FormReader(request.headers.get("content-type", ""), "data", lambda piece: holding(blob, most, piece))
        await form.read(request.stream())
        if form.fields:
            raise ApiRefusal(400, f"there is no field '{min(form.fields)[:80]}'", param=min(form.fields)[:80])
        return await run_in_threadpool(add_part, parts, caller, upload_id, blob)


@routes.post("/{upload_id}/complete", operation_id="complete_upload")
def complete(upload_id: str, body: CompletionRequest, parts: Parts, caller: Writer) -> UploadObject:
    """Put an upload's parts together into a file."""
    return complete_upload(parts, caller, upload_id, body)


@routes.post("/{upload_id}/cancel", operation_id="cancel_upload")
def cancel(upload_id: str, parts: Parts, caller: Writer) -> UploadObject:
    """Give an upload up."""
    return cancel_upload(parts, caller, upload_id)
