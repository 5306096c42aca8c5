"""Preference pairs as OpenAI's files have them: a conversation, and a preferred and a non-preferred answer to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mithridate.data.messages import Message, check_asked, read_turns
from mithridate.data.row_faults import Rejected, kind
from mithridate.data.row_formats import PromptCompletion, RowFormat, refuse_tools
from mithridate.data.row_keys import refuse_unread
from mithridate.data.row_reader import WrittenRow, written_rows

_ANSWERS = ("preferred_output", "non_preferred_output")
_ASKED = ("messages", "tools", "functions", "parallel_tool_calls")


def read_pair(row: dict[str, Any]) -> list[PromptCompletion]:
    """Read a pair as two examples: the preferred answer, then the other one.

    Raises:
        Rejected: The row is no such pair, or both answers are the same.
    """
    asked = row["input"]
    if not isinstance(asked, dict) or "messages" not in asked:
        raise Rejected(f"input that is {kind(asked)}" if not isinstance(asked, dict) else "input without messages",
                       "an object with messages")  # fmt: skip
    refuse_tools(asked)
    refuse_unread(asked, _ASKED, "input", at=None)
    turns = read_turns(asked["messages"], "input.messages", weights=False)
    check_asked(turns, "input.messages")
    prompt = [turn.message for turn in turns]
    preferred, other = (_answer(row[key], key) for key in _ANSWERS)
    if preferred == other:
        raise Rejected("the same text as preferred and as non-preferred output", "two answers that differ")
    return [PromptCompletion(prompt, preferred), PromptCompletion(prompt, other)]


def _answer(value: Any, key: str) -> Message:
    turns = read_turns(value, key, weights=False)
    roles = [turn.message["role"] for turn in turns]
    if roles != ["assistant"]:
        raise Rejected(f"{key} with turns by {', '.join(roles[:5])}", "exactly one assistant turn")
    return turns[0].message


PREFERENCES = RowFormat("OpenAI preferences", ("input", *_ANSWERS), read_pair)


def holds_preferences(source: Path) -> bool:
    """Return whether the first row of a file has the keys of a preference pair."""
    first = next((row for row in written_rows(source, source.name) if isinstance(row, WrittenRow)), None)
    return first is not None and any(key in first.fields for key in _ANSWERS)
