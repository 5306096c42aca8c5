"""Holds every request to a size and a pace, whatever it says of its own length."""

import asyncio
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mithridate.service.contract.api_refusal import ApiRefusal

FORM_ROOM = 1 << 20
"""Bytes that a form may be longer than the file in it."""


class RequestLimits:
    """Refuses bodies that are too long or too slow.

    Args:
        app: What answers.
        most: Returns the largest body of a request by its method and path.
        idle: Longest wait for the next piece, in seconds.
    """

    def __init__(self, app: ASGIApp, most: Callable[[str, str], int], idle: float) -> None:
        self._app, self._most, self._idle = app, most, idle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._most(scope["method"], scope["path"])
        if _said_length(scope) > most:  # without reading any of it
            refusal = too_large(most)
            await JSONResponse(refusal.body, refusal.status, refusal.headers)(scope, receive, send)
            return
        await self._app(scope, _Limited(receive, most, self._idle), send)


def _said_length(scope: Scope) -> int:
    said = Headers(scope=scope).get("content-length", "0")
    return int(said) if said.isdigit() else 0


class _Limited:
    """Receives a body in pieces, and no more than is allowed."""

    def __init__(self, receive: Receive, most: int, idle: float) -> None:
        self._receive, self._most, self._idle = receive, most, idle
        self._size, self._ended = 0, False

    async def __call__(self) -> Message:
        if self._ended:  # what comes now is the end of the connection, for which a stream may wait long
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._idle)
        except TimeoutError as error:
            raise ApiRefusal(
                408, f"nothing came for {self._idle:g} seconds; send the request again", code="request_timeout",
                headers={"Connection": "close"},
            ) from error  # fmt: skip
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self._ended = not message.get("more_body", False)
            if self._size > self._most:
                raise too_large(self._most)
        return message


def too_large(most: int) -> ApiRefusal:
    """Return the refusal of a body that is too long."""
    return ApiRefusal(
        413,
        f"the body is longer than {most} bytes; send a large file in parts with the Uploads API",
        code="body_too_large",
        headers={"Connection": "close"},
    )
