"""Files: all of them with a form to upload one, and one with its row errors."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from mithridate.service.contract.cursor_pages import PageAsk, listed, page_of
from mithridate.service.contract.file_objects import file_object
from mithridate.service.contract.object_ids import new_id
from mithridate.service.database.tables import FILES
from mithridate.service.pages.page_access import Changing, PageRoute, Visiting, check_token, from_here
from mithridate.service.pages.rendering import rendered
from mithridate.service.routes.access import Parts, writer
from mithridate.service.routes.file_routes import download_file, holding, retrieve_file
from mithridate.service.routes.form_stream import FormReader
from mithridate.service.uploaded_files import drop, take_in, unexpired

pages = APIRouter(route_class=PageRoute, include_in_schema=False)

_OF_A_PAGE = 50


@pages.get("/files")
def files(
    request: Request, parts: Parts, visitor: Visiting, after: Annotated[str | None, Query(max_length=80)] = None
) -> Response:
    """List the project's files."""
    query = select(FILES).where(FILES.c.project_id == visitor.caller.project, unexpired())
    with parts.database.read() as connection:
        rows, more = page_of(connection, FILES, query, PageAsk(after, _OF_A_PAGE))
    found = listed([file_object(row) for row in rows], more)
    return rendered(request, "files", here="files", files=found, most=parts.settings.sizes.file_bytes)


@pages.post("/files")
async def upload(request: Request, parts: Parts, visitor: Visiting) -> Response:
    """Take a file in, as it arrives."""
    from_here(request)
    await writer(visitor.caller)
    most = parts.settings.sizes.file_bytes
    with parts.blobs.begin(new_id("file")) as blob:
        form = FormReader(request.headers.get("content-type", ""), "file", lambda piece: holding(blob, most, piece))
        await form.read(request.stream())
        check_token(visitor, form.fields)
        row = await run_in_threadpool(take_in, parts, visitor.caller, blob, form.filename or "", None)
    return RedirectResponse(f"/files/{row.id}", 303)


@pages.get("/files/{file_id}")
def one(request: Request, file_id: str, parts: Parts, visitor: Visiting) -> Response:
    """Show a file and what is wrong with its rows."""
    return rendered(request, "file", here="files", file=retrieve_file(file_id, parts, visitor.caller))


@pages.get("/files/{file_id}/content")
def content(file_id: str, parts: Parts, visitor: Visiting) -> Response:
    """Return a file's bytes, to be saved."""
    return download_file(file_id, parts, visitor.caller)


@pages.post("/files/{file_id}/delete")
def delete(file_id: str, parts: Parts, visitor: Changing) -> Response:
    """Delete a file."""
    drop(parts, visitor.caller, file_id)
    return RedirectResponse("/files", 303)
