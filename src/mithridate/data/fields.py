"""Rows from tables of named fields, such as label data sets, through two small templates."""

from __future__ import annotations

import string
from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mithridate.data.faults import Rejected, kind
from mithridate.data.formats import Example, Format
from mithridate.data.messages import assistant, checked_text, user
from mithridate.data.tables import Cell


class RowFields(BaseModel):
    r"""How to make a prompt and a response from a row's fields.

    Templates hold plain names in braces and nothing else; a doubled brace stands for itself. Values
    are put in as they are and are never read as templates. Keys that no template names are left out: the templates
    say what of a row is meant.

    Example:
        SST-2 (`{"text": "a fine film", "label": 1}`)::

            RowFields(prompt="Is this review positive or negative?\n{text}", response="{label}",
                      labels=["negative", "positive"])

    Attributes:
        prompt: Template of the user turn.
        response: Template of the answer.
        labels: Names of the classes; the response's only field is then an index into them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = Field(min_length=1)
    response: str = Field(min_length=1)
    labels: list[str] | None = Field(default=None, min_length=2)

    @model_validator(mode="after")
    def _check(self) -> RowFields:
        if not field_names(self.prompt):
            raise ValueError("the prompt template names no field, such as {text}")
        used = field_names(self.response)
        if self.labels and len(used) != 1:
            raise ValueError("with labels, the response must name exactly one field, such as {label}")
        if not used:
            raise ValueError("the response template names no field, such as {label}")
        return self

    def format(self) -> Format:
        """Return the row format that these templates describe."""
        names = dict.fromkeys(field_names(self.prompt) + field_names(self.response))
        return Format("mapped fields", tuple(names), partial(_read, self), others=None)


def field_names(template: str) -> list[str]:
    """Return the names in a template, in order.

    Raises:
        ValueError: It holds more than plain names: an index, attribute, conversion, format, or lone brace.
    """
    names = []
    for _, name, layout, conversion in string.Formatter().parse(template):
        if name is None:
            continue
        if not name.isidentifier() or layout or conversion:
            raise ValueError(f"{{{name}}} in a template is not a plain field name such as {{text}}")
        names.append(name)
    return names


def _read(fields: RowFields, row: dict[str, Any]) -> list[Example]:
    prompt = _fill(fields.prompt, row, None)
    response = _fill(fields.response, row, fields.labels)
    return [Example([user(checked_text(prompt, "prompt"))], assistant(checked_text(response, "response")))]


def _fill(template: str, row: dict[str, Any], labels: list[str] | None) -> str:
    parts = []
    for literal, name, _, _ in string.Formatter().parse(template):
        parts.append(literal)
        if name is not None:
            parts.append(_label(row[name], name, labels) if labels else _value(row[name], name))
    return "".join(parts)


def _value(value: Any, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Rejected(f"field '{name}' that is {kind(value)}", "a string or a whole number")
    return str(value)


def _label(value: Any, name: str, labels: list[str]) -> str:
    if isinstance(value, Cell) and value.isdecimal() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(labels):
        shown = value if isinstance(value, int | float) else kind(value)
        raise Rejected(f"label {shown} in field '{name}'", f"a whole number from 0 to {len(labels) - 1}")
    return labels[value]
