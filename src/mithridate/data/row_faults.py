"""Faults in data files: where they are, what was found there and what was expected."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any, NamedTuple

from mithridate.errors import DataError

LISTED = 20
"""Maximum number of faults that one error or report lists; all of them are counted."""

_SHOWN = 40  # characters of a user's own text that a message repeats
_KINDS = {type(None): "null", bool: "a boolean", str: "a string", list: "a list", dict: "an object"}


class Fault(NamedTuple):
    """One thing wrong in a data file.

    Attributes:
        where: `file:line` (1-based), or the bare file where it could not be read at all.
        found: What stands there.
        expected: What should stand there.
    """

    where: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{shown(self.where)}: found {self.found}, expected {self.expected}"


class Rejected(Exception):
    """Raised while a piece of a file is read; the caller knows the line and makes it a `Fault`."""

    def __init__(self, found: str, expected: str):
        super().__init__(found, expected)
        self.found = found
        self.expected = expected

    def at(self, where: str) -> Fault:
        """Return the fault at a place."""
        return Fault(where, self.found, self.expected)


class FaultLog:
    """Counts every fault of a file and keeps the first `LISTED` of them."""

    def __init__(self, subject: str):
        self.subject = subject
        self.count = 0
        self.listed: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Count one fault."""
        self.count += 1
        # A file of a million faulty rows must not fill the memory with them.
        if len(self.listed) < LISTED:
            self.listed.append(fault)

    def raise_any(self) -> None:
        """Raise one error that lists the faults.

        Raises:
            DataError: There was at least one fault.
        """
        if self.count == 1:
            raise DataError(str(self.listed[0]))
        if self.count:
            head = f"{self.count} faults in {shown(self.subject)}"
            raise DataError(listing(head, map(str, self.listed), self.count))


def listing(head: str, items: Iterable[str], count: int) -> str:
    """Return a head line, up to `LISTED` indented items, and the number that is left out."""
    shown = list(items)[:LISTED]
    left = [f"and {count - len(shown)} more"] if count > len(shown) else []
    return "\n  ".join([f"{head}:", *shown, *left])


UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of characters that end a line, steer a terminal, or reorder and hide text."""


def shown(name: str) -> str:
    """Return a name that a stranger chose as one line of plain text, with unsafe characters written as escapes."""
    if not any(unicodedata.category(character) in UNSAFE for character in name):
        return name
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in UNSAFE else character
        for character in name
    )


def show(value: str) -> str:
    """Quote a user's text for a message: shortened, and with control characters escaped."""
    return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "…")


def number(value: float) -> str:
    """Write a number for a message: Python refuses to write whole numbers of thousands of digits."""
    try:
        text = str(value)
    except ValueError:
        return "of thousands of digits"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def kind(value: Any) -> str:
    """Name the JSON type of a value, or the Python type of one that JSON lacks."""
    # bool is an int in Python, but true is no number in JSON.
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "a number"
    # Subclasses of str are strings too, such as the cells of a table.
    return _KINDS.get(type(value)) or ("a string" if isinstance(value, str) else f"a {type(value).__name__}")
