"""Streams the training rows and the faults of one file or data set, in their order."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mithridate.data.faults import Fault, Rejected, kind
from mithridate.data.fields import RowFields
from mithridate.data.formats import Example, Format, detect, formats_of
from mithridate.data.keys import without
from mithridate.data.messages import Message
from mithridate.data.records import records
from mithridate.errors import UsageError

RowSource = str | Path | Iterable[Mapping[str, Any]]
"""A file's path, or rows themselves: a `datasets.Dataset` or a list of dicts."""


class Row(NamedTuple):
    """One training row in TRL's conversational prompt/completion form.

    Attributes:
        prompt: The turns before the answer; the last is the user's.
        completion: The answer, one assistant turn.
        origin: `file:line` or `rows[i]`, with `#k` for the k-th of several answers that one row trains.
    """

    prompt: list[Message]
    completion: list[Message]
    origin: str


class _Found(NamedTuple):
    """A row as it was written, and where: in full, and in short for messages about the row that decided the format."""

    origin: str
    place: str
    fields: dict[str, Any]


class Scan:
    """Iterates over the rows and faults of a file or data set, one line in memory at a time.

    The format is that of the first valid row; a row of any other is a fault.

    Args:
        source: The file, or the rows.
        fields: Templates that make prompt and response from other fields.
        ignore: Keys that are left out on purpose; `messages.name` stands for a key of the messages.
        name: What messages call rows that come from no file.

    Raises:
        UsageError: Both `fields` and `ignore` are given, or `ignore` is one text in place of several.

    Attributes:
        format: The format, once a valid row was met.
    """

    def __init__(
        self,
        source: RowSource,
        fields: RowFields | None = None,
        ignore: Collection[str] = (),
        name: str = "rows",
    ):
        if isinstance(ignore, str):
            raise UsageError(f"ignore is the text {ignore!r}; give a list of keys: ignore=[{ignore!r}].")
        if fields and ignore:
            raise UsageError("With fields, only the keys that its templates name are read; remove ignore.")
        self.format: Format | None = fields.format() if fields else None
        self._source = source
        self._ignore = ignore
        self._name = name
        self._first = ""  # place of the row that decided the format; empty where the caller did

    def __iter__(self) -> Iterator[Row | Fault]:
        for found in self._found():
            if isinstance(found, Fault):
                yield found
                continue
            try:
                examples = self._read(found)
            except Rejected as rejected:
                yield rejected.at(found.origin)
                continue
            for k, (prompt, answer) in enumerate(examples, 1):
                yield Row(prompt, [answer], f"{found.origin}#{k}" if len(examples) > 1 else found.origin)

    def _found(self) -> Iterator[_Found | Fault]:
        if not isinstance(self._source, str | Path):
            yield from _given(self._source, self._name)
            return
        path = Path(self._source)
        for record in records(path):
            if isinstance(record, Fault):
                yield record
            else:
                yield _Found(f"{path}:{record.line}", f"line {record.line}", record.fields)

    def _read(self, found: _Found) -> list[Example]:
        fields = without(found.fields, self._ignore) if self._ignore else found.fields
        if self.format is None:
            form = detect(fields)
            examples = form.examples(fields)
            self.format, self._first = form, found.place
            return examples
        self._check_format(self.format, fields)
        return self.format.examples(fields)

    def _check_format(self, form: Format, fields: dict[str, Any]) -> None:
        expected = f"a row of format {form.name}" + (f" as in {self._first}" if self._first else "")
        others = [other.name for other in formats_of(fields) if other is not form] if self._first else []
        if others:
            raise Rejected(f"a row of format {others[0]}", expected)
        for key in form.keys:
            if key not in fields:
                raise Rejected(f"no key '{key}'", expected)


def _given(rows: Iterable[Mapping[str, Any]], name: str) -> Iterator[_Found | Fault]:
    empty = True
    for i, row in enumerate(rows):
        empty = False
        if isinstance(row, Mapping):
            yield _Found(f"{name}[{i}]", f"{name}[{i}]", dict(row))
        else:
            yield Fault(f"{name}[{i}]", kind(row), "a dict with the keys of a row")
    if empty:
        yield Fault(name, "no rows", "at least one row")
