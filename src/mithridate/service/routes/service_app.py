"""The whole service as one ASGI application."""

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from mithridate.files import disk_was_full
from mithridate.service.chat.chat_engine import ChatEngine
from mithridate.service.contract.api_refusal import ApiRefusal, error_body
from mithridate.service.database.outages import damage_of, fault_of, is_away
from mithridate.service.housekeeping import Housekeeping
from mithridate.service.keys.rate_limit import RateLimit
from mithridate.service.pages.all_pages import PAGES
from mithridate.service.routes import (
    chat_routes,
    file_routes,
    health_routes,
    job_routes,
    model_routes,
    operator_routes,
    upload_routes,
)
from mithridate.service.routes.request_limits import FORM_ROOM, RequestLimits
from mithridate.service.routes.request_records import RequestRecords
from mithridate.service.service_metrics import ServiceMetrics
from mithridate.service.service_parts import ServiceParts
from mithridate.service.service_settings import SizeLimits
from mithridate.service.webhooks import deliver_until

log = logging.getLogger(__name__)

ROUTERS = (
    file_routes.routes,
    upload_routes.routes,
    job_routes.routes,
    model_routes.routes,
    chat_routes.routes,
    operator_routes.routes,
    health_routes.routes,
)


def make_app(parts: ServiceParts) -> FastAPI:
    """Return the application.

    Args:
        parts: The parts of the service.
    """
    app = FastAPI(
        title="Mithridate fine-tuning service",
        version="1",
        # Its pages would fetch scripts from another host.
        docs_url=None,
        redoc_url=None,
        lifespan=_beside,
        responses={
            status: {"description": said, "content": {"application/json": {"schema": _ERROR}}}
            for status, said in _STATUSES.items()
        },
    )
    app.state.parts = parts
    app.state.rate_limit = RateLimit(parts.settings.uses.requests_per_minute)
    app.state.chat = ChatEngine(parts.settings.uses.chats, parts.settings.uses.chat_tokens)
    app.state.metrics = ServiceMetrics(parts.database)
    for router in (*ROUTERS, *PAGES):
        app.include_router(router)
    app.add_exception_handler(ApiRefusal, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _plain)
    app.add_exception_handler(SQLAlchemyError, _away)
    app.add_exception_handler(OSError, _full)
    app.add_exception_handler(Exception, _broken)
    app.add_middleware(RequestLimits, most=_most(parts.settings.sizes), idle=parts.settings.sizes.idle_seconds)
    # The last is the outermost: it also counts what the limits refuse.
    app.add_middleware(RequestRecords, metrics=app.state.metrics)
    return app


@asynccontextmanager
async def _beside(app: FastAPI) -> AsyncIterator[None]:
    """Keep the store tidy and send messages for as long as the server runs."""
    parts, stop = app.state.parts, threading.Event()
    works = [
        threading.Thread(target=Housekeeping(parts).until, args=(stop,), daemon=True),
        threading.Thread(target=deliver_until, args=(parts, stop), daemon=True),
    ]
    for one in works:
        one.start()
    yield
    stop.set()
    for one in works:
        await anyio.to_thread.run_sync(one.join)
    await anyio.to_thread.run_sync(app.state.chat.close)


_STATUSES = {
    400: "A parameter cannot be used",
    401: "The API key is missing or unknown",
    403: "The API key may not do this",
    404: "There is no such object",
    408: "The request was too slow",
    409: "The request contradicts another one",
    413: "The body is too long",
    429: "Too much was asked for",
    503: "The service takes no jobs now",
    507: "The disk is full",
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def _most(sizes: SizeLimits) -> Any:
    def most(method: str, path: str) -> int:
        if method == "POST" and path in ("/v1/files", "/files"):
            return sizes.file_bytes + FORM_ROOM
        if method == "POST" and path.startswith("/v1/uploads/") and path.endswith("/parts"):
            return sizes.part_bytes + FORM_ROOM
        return sizes.body_bytes

    return most


def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiRefusal)  # registered for nothing else; for type checkers
    return JSONResponse(error.body, error.status, headers=error.headers)


def _invalid(request: Request, error: Exception) -> JSONResponse:
    """Answer a request whose parameters are wrong, in the contract's form and with one sentence."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    # Without where it stands (body, query) and without the names of a union's forms.
    place = [str(part) for part in first["loc"][1:] if not (isinstance(part, str) and "[" in part)]
    param = ".".join(place) or None
    said = str(first["msg"]).replace("Input should", "must").replace("Value error, ", "")
    message = f"{param}: {said}" if param else said
    return JSONResponse(error_body(400, message, param, "invalid_value"), 400)


def _away(request: Request, error: Exception) -> JSONResponse:
    """Answer while the database is restarted; clients ask again by themselves.

    Raises:
        Exception: The error itself, where waiting would not help.
    """
    assert isinstance(error, SQLAlchemyError)  # registered for nothing else; for type checkers
    if not is_away(error):
        if (said := damage_of(error)) is not None:
            log.critical(said)
        raise error
    log.error("the database is away", extra={"fault": fault_of(error)})
    said = "the database does not answer; ask again in a moment"
    return JSONResponse(error_body(503, said, code="database_unavailable"), 503, headers={"Retry-After": "1"})


def _full(request: Request, error: Exception) -> JSONResponse:
    """Answer where there is no room for a file.

    Raises:
        Exception: The error itself, where it is another one.
    """
    if not disk_was_full(error):
        raise error
    log.error("the disk is full", extra={"fault": str(error)})
    said = "the service has no room for this; tell the operator"
    return JSONResponse(
        error_body(
            507,
            said,
            code="storage_full",
        ),
        507,
        headers={"x-should-retry": "false"},
    )


def _broken(request: Request, error: Exception) -> JSONResponse:
    # A fault of ours. Starlette raises it again after this answer, so that it is logged with its traceback.
    return JSONResponse(error_body(500, "the service failed; its log says why", code="internal_error"), 500)


def _plain(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, ApiRefusal):  # raised while the body was read, and wrapped by FastAPI
        return _refused(request, error.__cause__)
    said = (
        f"there is no {request.method} {request.url.path[:200]}"
        if error.status_code in (404, 405)
        else str(error.detail)
    )
    return JSONResponse(error_body(error.status_code, said), error.status_code, headers=error.headers)
