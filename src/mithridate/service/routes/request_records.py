"""Counts and logs every request: who, what, the status and the time; never a body, a key or a name from outside."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mithridate.service.service_metrics import ServiceMetrics

log = logging.getLogger(__name__)


class RequestRecords:
    """Records requests once they are answered.

    Args:
        app: What answers.
        metrics: Where they are counted.
    """

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            # As declared, with {job_id}: a path that nobody has declared may say anything.
            route = getattr(scope.get("route"), "path", "unknown")
            taken = time.perf_counter() - began
            self._metrics.answered(scope["method"] if route != "unknown" else "ANY", route, status, taken)
            caller = scope.get("state", {}).get("caller")
            facts = {"route": route, "method": scope["method"], "status": status, "seconds": round(taken, 4)}
            log.info("request", extra=facts | {"key": None if caller is None else caller.key})
