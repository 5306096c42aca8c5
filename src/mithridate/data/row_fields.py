"""Rows in no known format, read through column names and small templates."""

from __future__ import annotations

import string
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mithridate.data.csv_files import CsvCell
from mithridate.data.messages import (
    OPENAI,
    SHAREGPT,
    Message,
    Spelling,
    assistant,
    checked_text,
    spelling_of,
    system,
    user,
)
from mithridate.data.row_faults import Rejected, kind, number
from mithridate.data.row_formats import PromptCompletion, RowFormat, read_dialog
from mithridate.data.row_keys import is_empty
from mithridate.errors import UsageError
from mithridate.validation import sentence

_OF_MESSAGES = ("role", "content", "roles")
_OF_TEXTS = ("prompt", "response", "labels")


class RowFields(BaseModel):
    r"""How to make a prompt and a response, or a conversation, from a row's columns.

    `prompt`, `response` and `system` are each a column's name, or a template with plain column names in braces, where
    a doubled brace stands for itself. Values are put in as they are and are never read as templates. Columns that are
    not named are left out: the fields say what of a row is meant.

    Example:
        SST-2 (`{"text": "a fine film", "label": 1}`)::

            RowFields(prompt="Is this review positive or negative?\n{text}", response="label",
                      labels=["negative", "positive"])

        Conversations under other names (`{"dialog": [{"speaker": "bot", "text": …}, …]}`)::

            RowFields(messages="dialog", role="speaker", content="text", roles={"bot": "assistant"})

    Attributes:
        prompt: Column or template of the user turn.
        response: Column or template of the completion.
        labels: Names of the classes; the response's only column is then an index into them.
        system: Column or template of the system turn; rows in which it is empty have none.
        messages: Column with a list of messages, in place of prompt and response.
        role: Key of a message's speaker; by default `role` or `from`, whichever the row has.
        content: Key of a message's text; by default `content` or `value`, beside the speaker's.
        roles: Maps a speaker's name in the rows to its role.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str | None = Field(default=None, min_length=1)
    response: str | None = Field(default=None, min_length=1)
    labels: list[str] | None = Field(default=None, min_length=2)
    system: str | None = Field(default=None, min_length=1)
    messages: str | None = Field(default=None, min_length=1)
    role: str | None = Field(default=None, min_length=1)
    content: str | None = Field(default=None, min_length=1)
    roles: dict[str, Literal["system", "user", "assistant"]] | None = None

    @model_validator(mode="after")
    def _check(self) -> RowFields:
        # A recipe may write `labels: null` for a setting that it does not use.
        given = self.model_fields_set - {name for name in self.model_fields_set if getattr(self, name) is None}
        if self.messages is not None:
            if wrong := [name for name in _OF_TEXTS if name in given]:
                raise ValueError(f"with messages, {wrong[0]} has no effect; remove it")
        else:
            if wrong := [name for name in _OF_MESSAGES if name in given]:
                raise ValueError(f"{wrong[0]} has no effect without messages; name the column with the messages")
            if self.prompt is None or self.response is None:
                raise ValueError("both prompt and response are needed, or messages alone")
        for name in ("prompt", "response", "system"):
            template = getattr(self, name)
            if template is not None and not column_names(template):
                raise ValueError(f"the {name} template names no field, such as {{text}}")
        if self.labels and len(column_names(self.response or "")) != 1:
            raise ValueError("with labels, the response must name exactly one field, such as {label}")
        return self

    def format(self) -> RowFormat:
        """Return the row format that these fields describe."""
        system_columns = column_names(self.system) if self.system is not None else []
        if self.messages is not None:
            return RowFormat(
                "mapped messages", (self.messages, *system_columns), partial(_read_messages, self), others=None
            )
        names = dict.fromkeys(column_names(self.prompt or "") + column_names(self.response or "") + system_columns)
        return RowFormat("mapped fields", tuple(names), partial(_read_texts, self), others=None)


def row_fields(given: RowFields | Mapping[str, Any] | None) -> RowFields | None:
    """Return fields from a dict, such as `{"prompt": "question", "response": "answer"}`.

    Raises:
        UsageError: A setting is unknown or cannot be used.
    """
    if given is None or isinstance(given, RowFields):
        return given
    if not isinstance(given, Mapping):
        raise UsageError(
            f"fields is {kind(given)}; give a dict such as {{'prompt': 'question', 'response': 'answer'}}."
        )
    try:
        return RowFields.model_validate(dict(given))
    except ValidationError as error:
        raise UsageError(f"fields: {sentence(error, RowFields)}") from error


def column_names(template: str) -> list[str]:
    """Return the columns that a template names, in order; a text without braces is a column's name itself.

    Raises:
        ValueError: It holds more than plain names: an index, attribute, conversion, format, or lone brace.
    """
    return [name for _, name in _pieces(template) if name is not None]


def _pieces(template: str) -> list[tuple[str, str | None]]:
    """Return (text, column whose value follows it) pairs."""
    if "{" not in template and "}" not in template:
        return [("", template)]
    found: list[tuple[str, str | None]] = []
    # Only the parser of str.format: its formatter would follow {a.b} and {a[0]} into Python objects.
    for text, name, layout, conversion in string.Formatter().parse(template):
        if name is not None and (not name.isidentifier() or layout or conversion):
            raise ValueError(
                f"{{{name}}} in a template is not a plain field name such as {{text}};"
                " a column whose name has other characters can be given alone, without braces"
            )
        found.append((text, name))
    return found


def _read_texts(fields: RowFields, row: dict[str, Any]) -> list[PromptCompletion]:
    assert fields.prompt is not None  # checked when the fields were made
    assert fields.response is not None
    prompt = checked_text(_fill(fields.prompt, row, None), "prompt")
    response = checked_text(_fill(fields.response, row, fields.labels), "response")
    return [PromptCompletion([*_system(fields, row), user(prompt)], assistant(response))]


def _read_messages(fields: RowFields, row: dict[str, Any]) -> list[PromptCompletion]:
    assert fields.messages is not None
    return read_dialog(row, fields.messages, _system(fields, row), _spelling(fields, row[fields.messages]))


def _spelling(fields: RowFields, messages: Any) -> Spelling:
    found = spelling_of(messages) if isinstance(messages, list) else OPENAI
    # The user's own names last, as they may redefine a known one.
    roles = {**OPENAI.roles, **SHAREGPT.roles, **(fields.roles or {})}
    return Spelling(fields.role or found.role, fields.content or found.content, roles)


def _system(fields: RowFields, row: dict[str, Any]) -> list[Message]:
    if fields.system is None or all(is_empty(row[name]) for name in column_names(fields.system)):
        return []
    return [system(checked_text(_fill(fields.system, row, None), "system"))]


def _fill(template: str, row: dict[str, Any], labels: list[str] | None) -> str:
    parts = []
    for text, name in _pieces(template):
        parts.append(text)
        if name is not None:
            parts.append(_label(row[name], name, labels) if labels else _value(row[name], name))
    return "".join(parts)


def _value(value: Any, name: str) -> str:
    # bool is an int in Python: the model would be taught to answer "True".
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Rejected(f"field '{name}' that is {kind(value)}", "a string or a whole number")
    try:
        # Python refuses to write integers of more than 4300 digits (sys.get_int_max_str_digits()).
        return str(value)
    except ValueError:
        raise Rejected(f"a number of more than 4300 digits in field '{name}'", "an ordinary number") from None


def _label(value: Any, name: str, labels: list[str]) -> str:
    # Only cells of a table, which has no numbers; in JSON the string "1" is a name, not an index.
    if isinstance(value, CsvCell) and value.isdecimal() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(labels):
        shown = number(value) if isinstance(value, int | float) else kind(value)
        raise Rejected(f"label {shown} in field '{name}'", f"a whole number from 0 to {len(labels) - 1}")
    return labels[value]
