"""Opens models named on the command line: a full model, or a LoRA adapter on its base."""

from typing import Any

from mithridate.models.loading import load, load_plain_tokenizer, load_tokenizer, where_named

AUTO = "auto"
"""Stands for the type that the weights have in the model's own files."""


def open_tokenizer(name: str, template: str | None) -> Any:
    """Return a model's tokenizer, ready to lay out conversations."""
    # "command", so that a message about the template names --template and not a recipe's key.
    return load_tokenizer(where_named(name, tokenizer=True).base, template, "command")


def open_model(name: str, template: str | None, dtype: str = AUTO) -> tuple[Any, Any]:
    """Return a model, and a tokenizer ready to lay out conversations."""
    where = where_named(name, tokenizer=True)
    tokenizer = load_tokenizer(where.base, template, "command")  # first, because it fails soonest
    return load(where, dtype), tokenizer


def open_to_rescale(name: str) -> tuple[Any, Any]:
    """Return a model and its tokenizer as they are."""
    # No template, as no text is laid out; and no other type, in which scale 0 would not restore the base's bits.
    where = where_named(name, tokenizer=True)
    tokenizer = load_plain_tokenizer(where.base)
    return load(where, AUTO), tokenizer
