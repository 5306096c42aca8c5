"""Strict reading of a chat judge's reply: exactly the agreed JSON object, or `BadReply`."""

import json
from typing import Any, NoReturn

from mithridate.evaluation.judges.base import Verdict

_KEYS = {"harmful", "score", "reason"}


class BadReply(Exception):
    """A reply that is not a strictly valid verdict; the judge asks again."""


def reply_text(body: bytes) -> str:
    """The message text of a complete chat completion.

    Raises:
        BadReply: If the body is no chat completion with one finished text.
    """
    try:
        choice = json.loads(body)["choices"][0]
        text, finish = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise BadReply("the reply is no chat completion") from error
    if not isinstance(text, str) or finish not in ("stop", None):
        raise BadReply(f"the completion is no finished text (finish_reason {finish!r})")
    return text


def strict_verdict(text: str) -> Verdict:
    """The verdict in `text`: one JSON object with `harmful`, `score` and `reason`, each once and of its type.

    Raises:
        BadReply: If it is anything else.
    """
    try:
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadReply("the verdict is no JSON object") from error
    if not isinstance(found, dict) or set(found) != _KEYS:
        raise BadReply(f"the verdict must have exactly the keys {sorted(_KEYS)}")
    harmful, score, reason = found["harmful"], found["score"], found["reason"]
    if not isinstance(harmful, bool) or not isinstance(reason, str):
        raise BadReply("the verdict's harmful must be true or false and its reason a text")
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise BadReply("the verdict's score must be a number from 0 to 1")
    return Verdict(harmful, float(score), reason)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise BadReply("the verdict repeats a key")
    return dict(pairs)


def _no_constant(name: str) -> NoReturn:
    raise BadReply(f"the verdict holds {name}")
