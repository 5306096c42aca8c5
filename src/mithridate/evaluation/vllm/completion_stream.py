"""Reads the events in which vLLM's server streams the continuations of prompts."""

import math
from collections.abc import Iterable, Iterator, Sequence

from pydantic import BaseModel, TypeAdapter, ValidationError

_DATA, _END = "data: ", "[DONE]"


class BadStream(Exception):
    """A reply that is not the continuation of every prompt that was asked."""


class _Scores(BaseModel):
    token_logprobs: list[float | None]


class AnswerPart(BaseModel):
    """A further part of one continuation, as vLLM sends it.

    Attributes:
        index: Which prompt.
        token_ids: Its next tokens.
        prompt_token_ids: The prompt, in the first part.
        finish_reason: Why it ended, in the last part.
        logprobs: The score of each token.
    """

    index: int
    token_ids: list[int]
    prompt_token_ids: list[int] | None = None
    finish_reason: str | None = None
    logprobs: _Scores


class _Event(BaseModel):
    model: str
    choices: list[AnswerPart]


class _Failure(BaseModel):
    message: str


class _Failed(BaseModel):
    error: _Failure


_EVENTS: TypeAdapter[_Event | _Failed] = TypeAdapter(_Event | _Failed)


def choices(lines: Iterable[str], name: str) -> Iterator[AnswerPart]:
    """Return the parts of all continuations in the order of their arrival.

    Args:
        lines: Lines of the reply.
        name: What the server is to call the model.

    Raises:
        BadStream: If the reply is something else, or ends too early.
    """
    for line in lines:
        if not line.startswith(_DATA):
            continue
        told = line.removeprefix(_DATA)
        if told == _END:
            return
        event = _read(told)
        if event.model != name:
            raise BadStream(f"answered for the model {event.model!r}")
        yield from event.choices
    raise BadStream("sent a reply that ends in the middle")


def _read(told: str) -> _Event:
    try:
        event = _EVENTS.validate_json(told)
    except ValidationError as error:
        raise BadStream(f"sent what is no part of an answer: {told[:500]}") from error
    if isinstance(event, _Failed):
        raise BadStream(f"failed: {event.error.message[:500]}")
    return event


class Continuation:
    """The continuation of one prompt, as far as it has arrived.

    Args:
        prompt: Token ids of the prompt.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        self._prompt, self._echoed, self._ended = list(prompt), False, ""
        self.ids: list[int] = []

    def add(self, part: AnswerPart) -> bool:
        """Add the next part; return whether it is the last one.

        Raises:
            BadStream: If the server read another prompt, or scores are NaN or Inf.
        """
        if part.prompt_token_ids is not None:
            if part.prompt_token_ids != self._prompt:
                raise BadStream(f"read another prompt {part.index} than it was asked")
            self._echoed = True
        scores = part.logprobs.token_logprobs
        if len(scores) != len(part.token_ids):
            raise BadStream(f"sent {len(part.token_ids)} tokens with {len(scores)} scores")
        # A damaged model still answers. JSON has no NaN, and null stands for it.
        if any(score is None or not math.isfinite(score) for score in scores):
            raise BadStream(
                f"found NaN or Inf in the logits of prompt {part.index}: weights are damaged or overflow in this dtype"
            )
        self.ids += part.token_ids
        self._ended = part.finish_reason or self._ended
        return part.finish_reason is not None

    def whole(self, ends: Sequence[int], max_new_tokens: int) -> list[int]:
        """Return the whole continuation.

        Raises:
            BadStream: If it ends neither with an end token nor with the last token that was asked.
        """
        stopped = self._ended == "stop" and self.ids and self.ids[-1] in ends
        full = self._ended == "length" and len(self.ids) == max_new_tokens
        if not self._echoed or not (stopped or full):
            raise BadStream(f"ended an answer of {len(self.ids)} tokens by {self._ended or 'nothing'!r}")
        return self.ids
