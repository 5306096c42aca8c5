"""Streams the training rows and the faults of one file or data set, in their order."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mithridate.data.file_records import records
from mithridate.data.messages import Message
from mithridate.data.row_faults import Fault, Rejected, kind, shown
from mithridate.data.row_fields import RowFields
from mithridate.data.row_formats import PromptCompletion, RowFormat, detect, formats_of
from mithridate.data.row_keys import without
from mithridate.errors import UsageError
from mithridate.nearest import nearest


class TrainingRow(NamedTuple):
    """One training row in TRL's conversational prompt/completion form.

    Attributes:
        prompt: The turns before the completion; the last is the user's.
        completion: One assistant turn.
        origin: `file:line` or `rows[i]`, with `#k` for the k-th of several completions that one row trains.
    """

    prompt: list[Message]
    completion: list[Message]
    origin: str


class WrittenRow(NamedTuple):
    """A row as it was written, and where: in full, and in short for messages about the row that decided the format."""

    origin: str
    place: str
    fields: dict[str, Any]


class RowReader:
    """Iterates over the rows and faults of a file or data set, one line in memory at a time.

    The format is that of the first valid row; a row of any other is a fault.

    Args:
        source: A file's path, or the rows themselves.
        fields: The columns that make prompt and response, or the messages.
        ignore: Keys that are left out on purpose; `messages.name` stands for a key of the messages.
        name: Name in messages of rows that do not come from a file.
        form: The format that every row must have; by default that of the first valid row.

    Raises:
        UsageError: `fields` names prompt and response and `ignore` is given too, or `ignore` is not a list of keys.

    Attributes:
        format: The format, once a valid row was met.
        read: Rows of the file that were valid; one of them may train several completions.
    """

    def __init__(
        self,
        source: Path | Iterable[Mapping[str, Any]],
        fields: RowFields | None = None,
        ignore: Collection[str] = (),
        name: str = "rows",
        form: RowFormat | None = None,
    ):
        if isinstance(ignore, str):
            raise UsageError(f"ignore is the text {ignore!r}; give a list of keys: ignore=[{ignore!r}].")
        if not all(isinstance(key, str) for key in ignore or ()):
            raise UsageError("ignore holds something that is no string; give a list of keys: ignore=['score'].")
        if fields and ignore and fields.messages is None:
            raise UsageError("With fields, only the columns that they name are read; remove ignore.")
        self.format: RowFormat | None = fields.format() if fields else form
        self.read = 0
        self._source = source
        self._ignore = ignore
        self._name = name
        self._first = ""  # place of the row that decided the format; empty where the caller did

    def __iter__(self) -> Iterator[TrainingRow | Fault]:
        for found in written_rows(self._source, self._name):
            if isinstance(found, Fault):
                yield found
                continue
            try:
                examples = self._read(found)
            except Rejected as rejected:
                yield rejected.at(found.origin)
                continue
            self.read += 1
            for k, (prompt, completion) in enumerate(examples, 1):
                yield TrainingRow(prompt, [completion], f"{found.origin}#{k}" if len(examples) > 1 else found.origin)

    def _read(self, found: WrittenRow) -> list[PromptCompletion]:
        fields = without(found.fields, self._ignore) if self._ignore else found.fields
        if self.format is None:
            form = detect(fields)
            examples = form.examples(fields)
            # Only now: a first row that was rejected decides nothing.
            self.format, self._first = form, found.place
            return examples
        self._check_format(self.format, fields)
        return self.format.examples(fields)

    def _check_format(self, form: RowFormat, fields: dict[str, Any]) -> None:
        expected = f"a row of format {form.name}" + (f" as in {self._first}" if self._first else "")
        # Not with a caller's own columns, which may well be in a row of a known format too.
        others = [other.name for other in formats_of(fields) if other is not form] if self._first else []
        if others:
            raise Rejected(f"a row of format {others[0]}", expected)
        for key in form.keys:
            if key not in fields:
                near = None if self._first else nearest(key, fields)
                meant = f" (did you mean it by '{near}'?)" if near else ""
                raise Rejected(f"no key '{key}'{meant}", expected)


def written_rows(source: Path | Iterable[Mapping[str, Any]], name: str) -> Iterator[WrittenRow | Fault]:
    """Yield the rows of a file or data set as they were written, and a fault for what is no row.

    Args:
        source: A file's path, or the rows themselves.
        name: Name in messages of rows that do not come from a file.
    """
    if not isinstance(source, Path):
        yield from _given(source, name)
        return
    for record in records(source):
        if isinstance(record, Fault):
            yield record
        else:
            # The name is a stranger's, and may hold bytes that are no text.
            yield WrittenRow(f"{shown(str(source))}:{record.line}", f"line {record.line}", record.fields)


def _given(rows: Iterable[Mapping[str, Any]], name: str) -> Iterator[WrittenRow | Fault]:
    empty = True
    for i, row in enumerate(rows):
        empty = False
        if not isinstance(row, Mapping):
            yield Fault(f"{name}[{i}]", kind(row), "a dict with the keys of a row")
        elif not all(isinstance(key, str) for key in row):
            yield Fault(f"{name}[{i}]", "a key that is no string", "a dict with strings as keys")
        else:
            yield WrittenRow(f"{name}[{i}]", f"{name}[{i}]", dict(row))
    if empty:
        yield Fault(name, "no rows", "at least one row")
