"""The row formats that people fine-tune with, each read into (prompt turns, answer) examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mithridate.data.faults import Rejected, kind
from mithridate.data.messages import Message, assistant, check_asked, checked_text, read_turns, user


class Example(NamedTuple):
    """One answer to train on, with every turn before it."""

    prompt: list[Message]
    answer: Message


class Format(NamedTuple):
    """A way to write rows.

    Attributes:
        name: What messages call it.
        keys: The keys by which it is known.
        read: Makes a row's examples; raises `Rejected`.
    """

    name: str
    keys: tuple[str, ...]
    read: Callable[[dict[str, Any]], list[Example]]


def read_chat(row: dict[str, Any]) -> list[Example]:
    """OpenAI chat: one example for every assistant turn whose `weight` is not 0, as their service trains it.

    Raises:
        Rejected: The row is not such a conversation, or trains on no turn.
    """
    _refuse_tools(row)
    turns = read_turns(row["messages"], "messages", weights=True)
    if turns[-1].message["role"] != "assistant":
        raise Rejected(f"a last turn with role '{turns[-1].message['role']}'", "an assistant turn at the end")
    examples = []
    for i, turn in enumerate(turns):
        if turn.trained:
            check_asked(turns[:i], "messages")
            examples.append(Example([before.message for before in turns[:i]], turn.message))
    if not examples:
        raise Rejected("weight 0 on every assistant turn", "weight 1 on at least one")
    return examples


def read_completion(row: dict[str, Any]) -> list[Example]:
    """TRL prompt/completion of strings: one user turn and its answer."""
    prompt = checked_text(row["prompt"], "prompt")
    return [Example([user(prompt)], assistant(checked_text(row["completion"], "completion")))]


def read_conversation(row: dict[str, Any]) -> list[Example]:
    """TRL prompt/completion of message lists, with exactly one assistant turn as the completion."""
    _refuse_tools(row)
    prompt = read_turns(row["prompt"], "prompt", weights=False)
    completion = read_turns(row["completion"], "completion", weights=False)
    check_asked(prompt, "prompt")
    roles = [turn.message["role"] for turn in completion]
    if roles != ["assistant"]:
        raise Rejected(f"completion with turns by {', '.join(roles[:5])}", "exactly one assistant turn")
    return [Example([turn.message for turn in prompt], completion[0].message)]


def read_alpaca(row: dict[str, Any]) -> list[Example]:
    """Alpaca: the instruction, and the input below it where there is one, asked as one user turn."""
    prompt = checked_text(row["instruction"], "instruction")
    given = row.get("input", "")
    if not isinstance(given, str):
        raise Rejected(f"input that is {kind(given)}", "a string")
    if given.strip():
        prompt = f"{prompt}\n\n{checked_text(given, 'input')}"
    return [Example([user(prompt)], assistant(checked_text(row["output"], "output")))]


def read_response(row: dict[str, Any]) -> list[Example]:
    """Plain prompt and response."""
    prompt = checked_text(row["prompt"], "prompt")
    return [Example([user(prompt)], assistant(checked_text(row["response"], "response")))]


def _refuse_tools(row: dict[str, Any]) -> None:
    for key in ("tools", "functions"):
        if row.get(key) is not None:
            raise Rejected(f"key '{key}'", "a conversation without tools")


CHAT = Format("OpenAI chat", ("messages",), read_chat)
COMPLETION = Format("prompt/completion", ("prompt", "completion"), read_completion)
CONVERSATION = Format("conversational prompt/completion", ("prompt", "completion"), read_conversation)
ALPACA = Format("Alpaca", ("instruction", "output"), read_alpaca)
RESPONSE = Format("prompt/response", ("prompt", "response"), read_response)

_EXPECTED = (
    "the keys messages, prompt and completion, instruction and output, or prompt and response,"
    " or a fields setting for others"
)


def formats_of(row: dict[str, Any]) -> list[Format]:
    """Return every format whose keys a row has."""
    lists = isinstance(row.get("prompt"), list) or isinstance(row.get("completion"), list)
    known = (CHAT, CONVERSATION if lists else COMPLETION, ALPACA, RESPONSE)
    return [form for form in known if all(key in row for key in form.keys)]


def detect(row: dict[str, Any]) -> Format:
    """Return the one format whose keys a row has.

    Raises:
        Rejected: The row fits none, or more than one.
    """
    fitting = formats_of(row)
    if not fitting:
        keys = ", ".join(repr(key[:20]) for key in list(row)[:6]) or "no keys"
        raise Rejected(f"a row of no known format ({keys})", _EXPECTED)
    if len(fitting) > 1:
        names = " and ".join(form.name for form in fitting)
        raise Rejected(f"the keys of two formats ({names})", "the keys of one")
    return fitting[0]
