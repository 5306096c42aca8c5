"""The row formats that people fine-tune with, each read into (prompt turns, answer) examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mithridate.data.messages import (
    NO_TOOLS,
    Message,
    Spelling,
    assistant,
    check_asked,
    checked_text,
    read_turns,
    system,
    user,
)
from mithridate.data.row_faults import Rejected, kind
from mithridate.data.row_keys import HARMLESS, is_empty, refuse_unread
from mithridate.nearest import nearest


class PromptCompletion(NamedTuple):
    """One completion to train on, with every turn before it."""

    prompt: list[Message]
    completion: Message


class RowFormat(NamedTuple):
    """A way to write rows.

    Attributes:
        name: Its name in messages.
        keys: The keys by which it is recognized.
        read: Makes a row's examples; raises `Rejected`.
        others: The keys it reads where a row has them; None where the caller chose what is read.
    """

    name: str
    keys: tuple[str, ...]
    read: Callable[[dict[str, Any]], list[PromptCompletion]]
    others: tuple[str, ...] | None = ()

    def examples(self, row: dict[str, Any]) -> list[PromptCompletion]:
        """Read a row of which no key may be lost.

        Raises:
            Rejected: The row is not of this format, or has a key that is not read.
        """
        made = self.read(row)
        if self.others is not None:
            refuse_unread(row, (*self.keys, *self.others), f"a row of format {self.name}")
        return made


def read_chat(row: dict[str, Any]) -> list[PromptCompletion]:
    """OpenAI chat: one example for every assistant turn whose `weight` is not 0, as their service trains it.

    Raises:
        Rejected: The row is not such a conversation, or trains on no turn.
    """
    return read_dialog(row, "messages", _system(row))


def read_sharegpt(row: dict[str, Any]) -> list[PromptCompletion]:
    """ShareGPT: one example for every turn by `gpt`."""
    return read_dialog(row, "conversations", _system(row))


def read_completion(row: dict[str, Any]) -> list[PromptCompletion]:
    """TRL prompt/completion of strings: one user turn and its answer."""
    return _single(row, checked_text(row["prompt"], "prompt"), "completion")


def read_conversation(row: dict[str, Any]) -> list[PromptCompletion]:
    """TRL prompt/completion of message lists, with exactly one assistant turn as the completion."""
    refuse_tools(row)
    prompt = read_turns(row["prompt"], "prompt", weights=False)
    completion = read_turns(row["completion"], "completion", weights=False)
    check_asked(prompt, "prompt")
    roles = [turn.message["role"] for turn in completion]
    if roles != ["assistant"]:
        raise Rejected(f"completion with turns by {', '.join(roles[:5])}", "exactly one assistant turn")
    return [PromptCompletion([turn.message for turn in prompt], completion[0].message)]


def read_alpaca(row: dict[str, Any]) -> list[PromptCompletion]:
    """Alpaca: the instruction, and the input below it where there is one, asked as one user turn."""
    prompt = checked_text(row["instruction"], "instruction")
    given = "" if is_empty(row.get("input")) else row["input"]
    if not isinstance(given, str):
        raise Rejected(f"input that is {kind(given)}", "a string")
    # Alpaca writes an empty string where there is no input; such rows are the instruction alone.
    if given.strip():
        prompt = f"{prompt}\n\n{checked_text(given, 'input')}"
    return _single(row, prompt, "output")


def read_response(row: dict[str, Any]) -> list[PromptCompletion]:
    """Plain prompt and response."""
    return _single(row, checked_text(row["prompt"], "prompt"), "response")


def _single(row: dict[str, Any], prompt: str, answer: str) -> list[PromptCompletion]:
    """One question and its answer, after the system text and the earlier turns that the row may have."""
    refuse_tools(row)
    turns = [*_system(row), *_history(row), user(prompt)]
    return [PromptCompletion(turns, assistant(checked_text(row[answer], answer)))]


def read_dialog(
    row: dict[str, Any], key: str, first: list[Message], spelling: Spelling | None = None
) -> list[PromptCompletion]:
    """Return one example for every completion of a conversation that is to be trained.

    Args:
        row: The row.
        key: Its key with the message list.
        first: The system turn that stands outside of the list, if there is one.
        spelling: How the messages are written, as for `read_turns`.

    Raises:
        Rejected: It is no conversation, or trains on no turn.
    """
    refuse_tools(row)
    turns = read_turns(row[key], key, weights=True, spelling=spelling)
    # Which of two system texts holds is not for us to guess.
    if first and turns[0].message["role"] == "system":
        raise Rejected(f"key 'system' beside a system turn in {key}", "one system text")
    if turns[-1].message["role"] != "assistant":
        raise Rejected(f"a last turn with role '{turns[-1].message['role']}'", "an assistant turn at the end")
    examples = []
    for i, turn in enumerate(turns):
        if turn.trained:
            # Checked only where it is trained: an untrained turn may follow anything.
            check_asked(turns[:i], key)
            examples.append(PromptCompletion(first + [before.message for before in turns[:i]], turn.message))
    if not examples:
        raise Rejected("weight 0 on every assistant turn", "weight 1 on at least one")
    return examples


def _system(row: dict[str, Any]) -> list[Message]:
    text = row.get("system")
    return [] if is_empty(text) else [system(checked_text(text, "system"))]


def _history(row: dict[str, Any]) -> list[Message]:
    """Earlier turns as LLaMA-Factory writes them, [[question, answer], …]; they are asked, not trained."""
    pairs = row.get("history")
    if is_empty(pairs):
        return []
    if not isinstance(pairs, list):
        raise Rejected(f"history that is {kind(pairs)}", "a list of [question, answer] pairs")
    turns = []
    for i, pair in enumerate(pairs):
        if not isinstance(pair, list) or len(pair) != 2:
            shown = f"{len(pair)} items" if isinstance(pair, list) else kind(pair)
            raise Rejected(f"history[{i}] that is {shown}", "a list of two texts, question and answer")
        turns += [user(checked_text(pair[0], f"history[{i}][0]")), assistant(checked_text(pair[1], f"history[{i}][1]"))]
    return turns


def refuse_tools(row: dict[str, Any]) -> None:
    """Refuse a row that says which tools may be called.

    Raises:
        Rejected: It names one.
    """
    for key in ("tools", "functions"):
        value = row.get(key)
        if isinstance(value, str) and value.strip() in ("", "[]", "null"):  # as JSON in a table's cell
            continue
        if not is_empty(value):
            raise Rejected(f"key '{key}'", f"{NO_TOOLS}, or ignore '{key}' to train without them")


_BEFORE = ("system", "history")

_NO_MEANING = ("tools", "functions", "parallel_tool_calls")
"""Keys that say nothing in a row that calls no tool; `refuse_tools` has made sure of that."""

CHAT = RowFormat("OpenAI chat", ("messages",), read_chat, ("system", *_NO_MEANING))
SHARE = RowFormat("ShareGPT", ("conversations",), read_sharegpt, ("system", *_NO_MEANING))
COMPLETION = RowFormat("prompt/completion", ("prompt", "completion"), read_completion, _BEFORE)
# No `system` or `history` beside message lists, which can hold both themselves.
CONVERSATION = RowFormat("conversational prompt/completion", ("prompt", "completion"), read_conversation)
ALPACA = RowFormat("Alpaca", ("instruction", "output"), read_alpaca, ("input", *_BEFORE))
RESPONSE = RowFormat("prompt/response", ("prompt", "response"), read_response, _BEFORE)

_EXPECTED = (
    "the keys messages, conversations, prompt and completion, instruction and output, or prompt and response,"
    " or a fields setting for others"
)
_NAMES = {key for form in (CHAT, SHARE, COMPLETION, ALPACA, RESPONSE) for key in form.keys}


def formats_of(row: dict[str, Any]) -> list[RowFormat]:
    """Return every format whose keys a row has.

    A table with rows of several formats has every key in every row, most of them null: where keys of several formats
    are there, those count that hold something.
    """
    # TRL uses the same two keys for strings and for message lists; a row of both is reported by the latter.
    lists = isinstance(row.get("prompt"), list) or isinstance(row.get("completion"), list)
    known = (CHAT, SHARE, CONVERSATION if lists else COMPLETION, ALPACA, RESPONSE)
    fitting = [form for form in known if all(key in row for key in form.keys)]
    # Only where several fit: a single format with a null is that format with a fault, and is reported so.
    filled = [form for form in fitting if not any(row[key] is None for key in form.keys)]
    return filled if filled and len(fitting) > 1 else fitting


def detect(row: dict[str, Any]) -> RowFormat:
    """Return the one format whose keys a row has.

    Raises:
        Rejected: The row fits none, or more than one.
    """
    fitting = formats_of(row)
    if not fitting:
        keys = ", ".join(repr(key[:20]) for key in list(row)[:6]) or "no keys"
        raise Rejected(f"a row of no known format ({keys})", _EXPECTED + _hint(row))
    if len(fitting) > 1:
        names = " and ".join(form.name for form in fitting)
        raise Rejected(f"the keys of two formats ({names})", "the keys of one")
    return fitting[0]


def _hint(row: dict[str, Any]) -> str:
    """The key that is nearest to one of a known format, as a question."""
    for key in row:
        # A stricter cutoff than usual: most keys of a foreign format are no misspellings.
        near = None if key in _NAMES or key in HARMLESS else nearest(key, _NAMES - row.keys(), cutoff=0.75)
        if near:
            return f"; did you mean '{near}' by '{key[:20]}'?"
    return ""
