"""Checks of texts and of message lists, shared by every row format."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from mithridate.data.row_faults import Rejected, kind, number, show
from mithridate.data.row_keys import is_empty, refuse_unread

ROLES = ("system", "user", "assistant")
_TOOL_ROLES = frozenset({"tool", "function", "function_call", "function_response", "observation", "ipython"})
_TOOL_KEYS = ("tool_calls", "function_call", "tool_call_id")
# The last two are what OpenAI's Responses API calls a text part.
_TEXT_PARTS = ("text", "input_text", "output_text")
_UNSAFE = re.compile("[\0\ud800-\udfff]")

NO_TOOLS = "a conversation without tools, because training does not lay out tool calls; remove this row"
"""What messages expect in place of a tool call."""

Message = dict[str, str]
"""A turn: {"role": system, user or assistant, "content": text}."""


class Turn(NamedTuple):
    """A message, and whether it is an answer to be trained on (OpenAI's `weight`, 1 where absent)."""

    message: Message
    trained: bool

    @property
    def is_answer(self) -> bool:
        """Whether the assistant speaks."""
        return self.message["role"] == "assistant"


class Spelling(NamedTuple):
    """How a message is written.

    Attributes:
        role: Key of the speaker.
        content: Key of the text.
        roles: Names of the speakers, and the role each stands for.
    """

    role: str
    content: str
    roles: Mapping[str, str]

    @property
    def expected(self) -> str:
        """The speakers' names, as messages list them."""
        *first, last = dict.fromkeys(self.roles)
        return f"{', '.join(first)} or {last}"


OPENAI = Spelling(
    "role", "content", {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
)
"""`developer` is what newer OpenAI models call `system`; few chat templates know it, so it is read as `system`."""

SHAREGPT = Spelling(
    "from",
    "value",
    {"system": "system", "human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant"}
    | {"chatgpt": "assistant"},
)


def system(content: str) -> Message:
    """Return a system turn."""
    return {"role": "system", "content": content}


def user(content: str) -> Message:
    """Return a user turn."""
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    """Return an assistant turn."""
    return {"role": "assistant", "content": content}


def checked_text(value: Any, name: str) -> str:
    """Return a text unchanged.

    Raises:
        Rejected: The value is not a string, is blank, or holds a NUL or a lone surrogate, which no tokenizer can
            encode.
    """
    if not isinstance(value, str):
        raise Rejected(f"{name} that is {kind(value)}", "a string")
    if not value.strip():
        raise Rejected(f"{name} that is empty", "text")
    if bad := _UNSAFE.search(value):
        what = "NUL" if bad[0] == "\0" else "lone surrogate"
        raise Rejected(f"a {what} in {name} at character {bad.start() + 1}", "plain text")
    return value


def read_text(value: Any, name: str) -> str:
    """Return the text of a message, its parts joined by line breaks where it is a list of text parts.

    Raises:
        Rejected: The value is not text, or one of its parts is not a text part.
    """
    if isinstance(value, list) and value:
        value = "\n".join(_part(part, f"{name}[{i}]") for i, part in enumerate(value))
    return checked_text(value, name)


def _part(part: Any, name: str) -> str:
    expected = 'text parts alone: {"type": "text", "text": …}'
    if not isinstance(part, dict):
        raise Rejected(f"{name} that is {kind(part)}", expected)
    called = part.get("type")
    if called not in _TEXT_PARTS:
        shown = show(called) if isinstance(called, str) else kind(called)
        raise Rejected(f"{name} with type {shown}", expected)
    refuse_unread(part, ("type", "text"), name, at=None)
    if not isinstance(part.get("text"), str):
        raise Rejected(f"{name}.text that is {kind(part.get('text'))}", "a string")
    return str(part["text"])


def read_turns(value: Any, name: str, *, weights: bool, spelling: Spelling | None = None) -> list[Turn]:
    """Return the turns of a message list.

    Args:
        value: The message list as it stands in the row.
        name: The row's key, for messages.
        weights: Whether assistant turns may carry `weight`.
        spelling: How the messages are written; by default as OpenAI or ShareGPT, whichever the first one shows.

    Raises:
        Rejected: The value is not a list of messages, or a system turn is not the first.
    """
    value = _as_list(value)
    if not isinstance(value, list):
        raise Rejected(f"{name} that is {kind(value)}", "a list of messages")
    if not value:
        raise Rejected(f"{name} that is empty", "a list of messages")
    spelling = spelling or spelling_of(value)
    turns = [_turn(item, name, i, weights, spelling) for i, item in enumerate(value)]
    for i, turn in enumerate(turns):
        if i and turn.message["role"] == "system":
            raise Rejected(f"{name}[{i}] with role 'system'", "a system turn only at the start")
    return turns


def _as_list(value: Any) -> Any:
    """Turn an object of equally long lists into a list of objects: older data sets hold a list of messages so."""
    if not isinstance(value, dict) or not value or not all(isinstance(column, list) for column in value.values()):
        return value
    # Columns of different lengths have no common turns; the caller then says that an object is no list.
    if len({len(column) for column in value.values()}) > 1:
        return value
    return [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]


def spelling_of(messages: list[Any]) -> Spelling:
    """Return ShareGPT's spelling where the first message has `from` and no `role`, else OpenAI's."""
    first = messages[0] if messages and isinstance(messages[0], dict) else {}
    return SHAREGPT if first.get("from") is not None and first.get("role") is None else OPENAI


def check_asked(turns: list[Turn], name: str) -> None:
    """Check that the last of some turns, which an answer follows, is the user's.

    Raises:
        Rejected: There is no turn, or it is not the user's.
    """
    role = turns[-1].message["role"] if turns else "no"
    if role != "user":
        raise Rejected(f"{role} turn before the answer in {name}", "a user turn")


def _turn(item: Any, key: str, number: int, weights: bool, spelling: Spelling) -> Turn:
    name = f"{key}[{number}]"
    if not isinstance(item, dict):
        raise Rejected(f"{name} that is {kind(item)}", f"an object with {spelling.role} and {spelling.content}")
    # First, because a tool call may lack the content, and would be reported for that.
    refuse_tool_calls(item, item.get(spelling.role), name)
    for needed in (spelling.role, spelling.content):
        if needed not in item:
            raise Rejected(f"{name} without key '{needed}'", f"{spelling.role} and {spelling.content}")
    called = item[spelling.role]
    role = spelling.roles.get(called) if isinstance(called, str) else None
    if role is None:
        shown = show(called) if isinstance(called, str) else kind(called)
        raise Rejected(f"{name} with {spelling.role} {shown}", spelling.expected)
    refuse_unread(item, (spelling.role, spelling.content, "weight"), name, at=f"{key}.")
    content = read_text(item[spelling.content], f"{name}.{spelling.content}")
    return Turn({"role": role, "content": content}, _trained(item, role, name, weights))


def refuse_tool_calls(item: dict[str, Any], role: Any, name: str) -> None:
    """Refuse a message that calls a tool, or tells what one returned.

    Raises:
        Rejected: Naming the message.
    """
    if isinstance(role, str) and role in _TOOL_ROLES:
        raise Rejected(f"{name} by role '{role}'", NO_TOOLS)
    for key in _TOOL_KEYS:
        if not is_empty(item.get(key)):
            raise Rejected(f"key '{key}' in {name}", NO_TOOLS)


def _trained(item: dict[str, Any], role: str, name: str, weights: bool) -> bool:
    weight = item.get("weight")  # null stands for none: a table has the column for every message
    if weight is None:
        return role == "assistant"
    # Refused, not ignored: whoever writes a weight expects it to change what is trained.
    if not weights or role != "assistant":
        raise Rejected(f"weight in {name}", "weight only on assistant turns of 'messages'")
    # bool is an int in Python; OpenAI takes 0 or 1 and nothing between.
    if isinstance(weight, bool) or weight not in (0, 1):
        shown = number(weight) if isinstance(weight, int | float) else kind(weight)
        raise Rejected(f"weight {shown} in {name}", "0 or 1")
    return bool(weight)
