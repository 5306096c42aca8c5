"""Streams the training rows and the faults of one file, in the order of its lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mithridate.data.faults import Fault, Rejected
from mithridate.data.fields import RowFields
from mithridate.data.formats import Example, Format, detect, formats_of
from mithridate.data.messages import Message
from mithridate.data.records import records


class Row(NamedTuple):
    """One training row in TRL's conversational prompt/completion form.

    Attributes:
        prompt: The turns before the answer; the last is the user's.
        completion: The answer, one assistant turn.
        origin: `file:line`, with `#k` for the k-th of several answers that one line trains.
    """

    prompt: list[Message]
    completion: list[Message]
    origin: str


class Scan:
    """Iterates over a file's rows and faults, one line in memory at a time.

    The format is that of the first valid row; a row of any other is a fault.

    Attributes:
        format: The format, once a valid row was met.
    """

    def __init__(self, path: str | Path, fields: RowFields | None = None):
        self.path = Path(path)
        self.format: Format | None = fields.format() if fields else None
        self._first = 0  # line that decided the format; 0 where the caller did

    def __iter__(self) -> Iterator[Row | Fault]:
        for record in records(self.path):
            if isinstance(record, Fault):
                yield record
                continue
            origin = f"{self.path}:{record.line}"
            try:
                examples = self._read(record.line, record.fields)
            except Rejected as rejected:
                yield rejected.at(origin)
                continue
            for k, (prompt, answer) in enumerate(examples, 1):
                yield Row(prompt, [answer], f"{origin}#{k}" if len(examples) > 1 else origin)

    def _read(self, line: int, fields: dict[str, Any]) -> list[Example]:
        if self.format is None:
            found = detect(fields)
            examples = found.read(fields)
            self.format, self._first = found, line
            return examples
        self._check_format(self.format, fields)
        return self.format.read(fields)

    def _check_format(self, form: Format, fields: dict[str, Any]) -> None:
        expected = f"a row of format {form.name}" + (f" as in line {self._first}" if self._first else "")
        others = [other.name for other in formats_of(fields) if other is not form] if self._first else []
        if others:
            raise Rejected(f"a row of format {others[0]}", expected)
        for key in form.keys:
            if key not in fields:
                raise Rejected(f"no key '{key}'", expected)
