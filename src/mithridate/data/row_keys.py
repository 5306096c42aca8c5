"""Keys that no format reads: known to be harmless, left out on purpose, or refused; never dropped in silence."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mithridate.data.row_faults import Rejected, show
from mithridate.nearest import nearest

HARMLESS = frozenset(
    {
        *("id", "_id", "idx", "index", "row", "uid", "uuid"),  # the row's name
        *("origin", "source", "dataset", "subset", "split", "url", "license"),  # where it comes from
        *("category", "subcategory", "tags", "language", "lang"),  # what it is about
        *("created_at", "timestamp", "model", "metadata", "meta"),  # when and by what it was made
    }
)
"""Keys that may hold anything and are not read: they tell about a row and are no part of what is said in it."""


def is_empty(value: Any) -> bool:
    """Tell whether a value holds nothing that could be lost, as the nulls, NaNs and empty lists of exports."""
    if isinstance(value, float):
        return value != value  # NaN: a data frame's empty cell
    return value is None or (isinstance(value, str | list | dict) and not value)


def without(fields: Mapping[str, Any], ignored: Collection[str]) -> dict[str, Any]:
    """Return a row without the keys that are left out on purpose.

    Args:
        fields: The row.
        ignored: Keys of the row, or `messages.name` for a key of the messages under a key of the row.
    """
    kept = {key: value for key, value in fields.items() if key not in ignored}
    for path in ignored:
        key, _, inner = path.partition(".")
        # A key whose own name holds a dot was left out above; a path needs a list of messages.
        if inner and isinstance(kept.get(key), list):
            kept[key] = [_less(item, inner) for item in kept[key]]
    return kept


def refuse_unread(fields: Mapping[str, Any], read: Collection[str], what: str, *, at: str | None = "") -> None:
    """Refuse a key that is neither read, nor harmless, nor empty.

    Args:
        fields: A row or a message.
        read: Keys that are read.
        what: The row's format, or the place of the message, for the error.
        at: What stands before the key in `ignore`: `messages.` for a key of a message; None where it cannot be ignored.

    Raises:
        Rejected: Naming the key, and the nearest key that is read.
    """
    for key, value in fields.items():
        if key in read or key in HARMLESS or is_empty(value):
            continue
        if not isinstance(key, str):
            raise Rejected(f"a key in {what} that is no string", "strings as keys")
        near = nearest(key, read, cutoff=0.75)
        meant = f"'{near}' (a misspelling?)" if near and near not in fields else f"no keys but {', '.join(read)}"
        way_out = "" if at is None else f"; to leave it out on purpose, ignore {show(at + key)}"
        raise Rejected(f"key {show(key)} in {what}, which is not read", meant + way_out)


def _less(item: Any, key: str) -> Any:
    return {name: value for name, value in item.items() if name != key} if isinstance(item, dict) else item
