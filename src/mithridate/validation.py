"""Faults that pydantic finds in settings, as one sentence each; recipes, command line and Python share it."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from mithridate.nearest import did_you_mean, nearest

_BOUNDS = {
    "gt": "greater than",
    "ge": "greater than or equal to",
    "lt": "less than",
    "le": "less than or equal to",
}
_KINDS = {
    "bool": "true or false",
    "dict": "settings (key: value)",
    "finite_number": "a finite number",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "model": "settings (key: value)",
    "string_type": "text",
}
_SHOWN = 60  # characters of a user's own value that a message repeats


class _Place(NamedTuple):
    """Where a fault is.

    Attributes:
        path: Keys and positions, as a user writes them.
        beside: Valid names at the last key.
        field: The setting; None where there is no such.
    """

    path: tuple[str | int, ...]
    beside: tuple[str, ...]
    field: FieldInfo | None


def sentence(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the first fault in one sentence, with the nearest valid name for an unknown key or value.

    Args:
        error: What pydantic found.
        model: The model that was validated.
    """
    found = [(_place(model, fault), fault) for fault in error.errors()]
    paths = {place.path for place, _ in found}
    # A union is at fault in each of its forms; the form that was meant is the one in which pydantic came furthest.
    inner = [one for one in found if not any(_begins(path, one[0].path) for path in paths)]
    inner.sort(
        key=lambda one: one[1]["type"] != "extra_forbidden"
    )  # a misspelled key is what makes another one missing
    place, first = inner[0]
    count = len({other.path for other, _ in inner})
    more = f" ({count - 1} more)" if count > 1 else ""
    where = ".".join(map(str, place.path))
    if first["type"] == "extra_forbidden":
        return f"unknown key '{where}'; {did_you_mean(str(place.path[-1]), place.beside, cutoff=0.5)}{more}"
    if first["type"] == "missing":
        near = nearest(str(place.path[-1]), map(str, first["input"]), cutoff=0.5)
        return f"'{where}' is missing; " + (f"did you mean it by '{near}'?" if near else "set it") + more
    forms = dict.fromkeys(_said(fault, at) for at, fault in inner if at.path == place.path)
    said = " or ".join(forms).replace(" or must be ", " or ")
    prefix = f"{where}: " if where else ""
    return f"{prefix}{said}{_got(first)}{more}"


def _begins(path: tuple[str | int, ...], start: tuple[str | int, ...]) -> bool:
    return len(path) > len(start) and path[: len(start)] == start


def _place(model: type[BaseModel], fault: Any) -> _Place:
    """Follow a fault's location through the model, leaving out the names of a union's forms."""
    models: list[type[BaseModel]] = [model]
    path: list[str | int] = []
    field: FieldInfo | None = None
    last = len(fault["loc"]) - 1
    for i, part in enumerate(fault["loc"]):
        holder = next((held for held in models if part in held.model_fields), None)
        if holder is not None:
            field = holder.model_fields[str(part)]
            models = list(_models_in(field.annotation))
        elif isinstance(part, str) and not (i == last and fault["type"] == "extra_forbidden"):
            continue
        path.append(part)
    names = tuple(name for held in models for name in held.model_fields)
    return _Place(tuple(path), names, field)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for inner in typing.get_args(annotation):
        yield from _models_in(inner)


def _said(fault: Any, place: _Place) -> str:
    kind = fault["type"]
    if kind == "literal_error":
        expected = fault["ctx"]["expected"]
        options = [option.strip("' ") for option in expected.replace(" or ", ",").split(",")]
        near = nearest(str(fault["input"]), options)
        return f"must be {expected}" + (f" (did you mean '{near}'?)" if near else "")
    if bounds := _range(place.field):
        if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
            return f"must be {bounds}"
        if kind.startswith(("int_", "float_")):
            return f"must be {_kind(kind)} {bounds}"
    if kind == "too_short":
        least = fault["ctx"]["min_length"]
        return f"must have at least {least} item{'s' * (least != 1)}"
    if named := _kind(kind):
        quotes = kind == "string_type" and not isinstance(fault["input"], list | dict)
        return f"must be {named}" + (" (put it in quotes)" if quotes else "")
    return (
        str(fault["msg"]).removeprefix("Value error, ").replace("Input should", "must").replace("String should", "must")
    )


def _kind(kind: str) -> str:
    return next((name for start, name in _KINDS.items() if kind.startswith(start)), "")


def _range(field: FieldInfo | None) -> str:
    """Return the bounds of a setting in words; empty if it has none."""
    if field is None:
        return ""
    limits = {name: value for held in _constraints(field) for name, value in held.items()}
    return " and ".join(f"{words} {limits[name]}" for name, words in _BOUNDS.items() if name in limits)


def _constraints(field: FieldInfo) -> Iterator[dict[str, float]]:
    for held in field.metadata:
        yield {name: getattr(held, name) for name in _BOUNDS if getattr(held, name, None) is not None}
    for inner in typing.get_args(field.annotation):
        for extra in getattr(inner, "__metadata__", ()):
            if isinstance(extra, FieldInfo):
                yield from _constraints(extra)


def _got(fault: Any) -> str:
    value = fault.get("input")
    if fault["type"] == "value_error":
        return "" if isinstance(value, dict | list | BaseModel) else f", got {_short(value)}"
    if isinstance(value, dict | list):
        return ", got a list" if isinstance(value, list) else ", got settings"
    return f", got {_short(value)}"


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more than 4300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
