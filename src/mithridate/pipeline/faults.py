"""Faults of settings as one sentence each."""

import difflib
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def sentence(error: ValidationError, model: type[BaseModel]) -> str:
    """The first fault in one sentence, with the nearest valid name for an unknown key.

    Args:
        error: What pydantic found.
        model: The model that was validated.
    """
    faults = error.errors()
    first = faults[0]
    where = ".".join(str(part) for part in first["loc"] if not str(part)[:1].isupper()) or error.title
    more = f" ({len(faults) - 1} more)" if len(faults) > 1 else ""
    if first["type"] == "extra_forbidden":
        names = _names_beside(model, first["loc"])
        near = difflib.get_close_matches(str(first["loc"][-1]), names, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(names))}"
        return f"unknown key '{where}'; {hint}{more}"
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(first.get("input"), (dict, list)) else f", got {first.get('input')!r}"
    return f"{where}: {message}{shown}{more}"


def _names_beside(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Valid names at the place of an unknown key."""
    for part in location[:-1]:
        if part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in get_args(annotation) if (model := _model_in(inner))), None)
