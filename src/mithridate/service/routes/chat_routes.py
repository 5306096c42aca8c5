"""Chat completions of released models."""

import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Self

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse

from mithridate.service.chat.chat_engine import Answering, ChatEngine
from mithridate.service.contract.chat_objects import ChatRequest, chat_chunk, chat_completion
from mithridate.service.contract.object_ids import now
from mithridate.service.released_models import model_folder, model_row
from mithridate.service.routes.access import Parts, Writer

routes = APIRouter(prefix="/v1/chat", tags=["Chat"])


@routes.post("/completions", operation_id="create_chat_completion", response_model=None)
def create(body: ChatRequest, request: Request, parts: Parts, caller: Writer) -> JSONResponse | StreamingResponse:
    """Ask a released model."""
    with parts.database.read() as connection:
        row = model_row(connection, caller.project, body.model)
    engine: ChatEngine = request.app.state.chat
    held = ExitStack()
    # Opened before the answer begins, so that a refusal still has a status of its own.
    answering = held.enter_context(engine.answering(row.id, model_folder(parts, row), row.files, body))
    name, created = f"chatcmpl-{secrets.token_hex(12)}", now()
    if body.stream:
        lines = HeldLines(held, _stream(answering, body, name, created))
        return StreamingResponse(lines, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    with held:
        text = "".join(answering.pieces())
    return JSONResponse(chat_completion(name, created, body.model, text, answering.reason, answering.usage))


class HeldLines:
    """Lines of a stream that hold a place until they end, or until nobody asks for more.

    A client may go before the first line; a generator that was never begun would then never release its place.
    """

    def __init__(self, held: ExitStack, lines: Iterator[str]) -> None:
        self._held, self._lines = held, lines

    def __iter__(self) -> Self:
        """Return the lines."""
        return self

    def __next__(self) -> str:
        """Return the next line."""
        try:
            return next(self._lines)
        except StopIteration:
            self._held.close()
            raise

    def __del__(self) -> None:
        """Release the place, unless the end has done so."""
        self._held.close()


def _stream(answering: Answering, body: ChatRequest, name: str, created: int) -> Iterator[str]:
    yield _event(chat_chunk(name, created, body.model, {"role": "assistant", "content": ""}, None))
    for piece in answering.pieces():
        yield _event(chat_chunk(name, created, body.model, {"content": piece}, None))
    yield _event(chat_chunk(name, created, body.model, {}, answering.reason))
    if body.stream_options is not None and body.stream_options.include_usage:
        yield _event(chat_chunk(name, created, body.model, None, None, answering.usage))
    yield "data: [DONE]\n\n"


def _event(tree: dict[str, Any]) -> str:
    return f"data: {json.dumps(tree)}\n\n"
