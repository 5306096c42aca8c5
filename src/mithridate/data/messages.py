"""Checks of texts and of message lists, shared by every row format."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from mithridate.data.faults import Rejected, kind, show

ROLES = ("system", "user", "assistant")
_UNSAFE = re.compile("[\0\ud800-\udfff]")
_KEYS = {"role", "content", "name", "weight"}

Message = dict[str, str]
"""A turn: {"role": system, user or assistant, "content": text}."""


class Turn(NamedTuple):
    """A message, and whether it is an answer to be trained on (OpenAI's `weight`, 1 where absent)."""

    message: Message
    trained: bool


def user(content: str) -> Message:
    """Return a user turn."""
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    """Return an assistant turn."""
    return {"role": "assistant", "content": content}


def checked_text(value: Any, name: str) -> str:
    """Return a text unchanged.

    Raises:
        Rejected: It is no string, blank, or holds a NUL or a lone surrogate, which no tokenizer can encode.
    """
    if not isinstance(value, str):
        raise Rejected(f"{name} that is {kind(value)}", "a string")
    if not value.strip():
        raise Rejected(f"{name} that is empty", "text")
    if bad := _UNSAFE.search(value):
        what = "NUL" if bad[0] == "\0" else "lone surrogate"
        raise Rejected(f"a {what} in {name} at character {bad.start() + 1}", "plain text")
    return value


def read_turns(value: Any, name: str, *, weights: bool) -> list[Turn]:
    """Return the turns of a message list.

    Args:
        value: What stands in the row.
        name: The row's key, for messages.
        weights: Whether assistant turns may carry `weight`.

    Raises:
        Rejected: It is no list of messages, or a system turn stands elsewhere than at the start.
    """
    if not isinstance(value, list):
        raise Rejected(f"{name} that is {kind(value)}", "a list of messages")
    if not value:
        raise Rejected(f"{name} that is empty", "a list of messages")
    turns = [_turn(item, f"{name}[{i}]", weights) for i, item in enumerate(value)]
    for i, turn in enumerate(turns):
        if i and turn.message["role"] == "system":
            raise Rejected(f"{name}[{i}] with role 'system'", "a system turn only at the start")
    return turns


def check_asked(turns: list[Turn], name: str) -> None:
    """Check that the last of some turns, which an answer follows, is the user's.

    Raises:
        Rejected: There is no turn, or it is not the user's.
    """
    role = turns[-1].message["role"] if turns else "no"
    if role != "user":
        raise Rejected(f"{role} turn before the answer in {name}", "a user turn")


def _turn(item: Any, name: str, weights: bool) -> Turn:
    if not isinstance(item, dict):
        raise Rejected(f"{name} that is {kind(item)}", "an object with role and content")
    for key in ("role", "content"):
        if key not in item:
            raise Rejected(f"{name} without key '{key}'", "role and content")
    role = item["role"]
    if role not in ROLES:
        shown = show(role) if isinstance(role, str) else kind(role)
        raise Rejected(f"{name} with role {shown}", "system, user or assistant")
    for key, held in item.items():
        if key not in _KEYS and held is not None:  # exports write "tool_calls": null
            raise Rejected(f"{name} with key {show(key)}", "only role, content, name and weight")
    content = checked_text(item["content"], f"{name}.content")
    return Turn({"role": role, "content": content}, _trained(item, name, weights))


def _trained(item: dict[str, Any], name: str, weights: bool) -> bool:
    if "weight" not in item:
        return bool(item["role"] == "assistant")
    if not weights or item["role"] != "assistant":
        raise Rejected(f"weight in {name}", "weight only on assistant turns of 'messages'")
    weight = item["weight"]
    if isinstance(weight, bool) or weight not in (0, 1):
        shown = weight if isinstance(weight, int | float) else kind(weight)
        raise Rejected(f"weight {shown} in {name}", "0 or 1")
    return bool(weight)
