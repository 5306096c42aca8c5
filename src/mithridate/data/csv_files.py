"""Rows of CSV and TSV tables: every cell is text, and whatever other table readers would guess about is refused."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mithridate.data.row_faults import Fault, Rejected, show
from mithridate.data.text_files import ROW_LIMIT, BoundedReader, start

_DELIMITERS = {".csv": ",", ".tsv": "\t"}


class CsvCell(str):
    """The text of a table's cell; a table has no numbers, so `"1"` may stand for one."""

    __slots__ = ()


def delimiter_of(path: Path) -> str | None:
    """Return the delimiter of a file named `.csv` or `.tsv`, also as `.gz`; None for other files."""
    name = Path(path.stem) if path.suffix.lower() == ".gz" else path
    return _DELIMITERS.get(name.suffix.lower())


def table(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, Any] | Fault]]:
    """Yield (line, row) for each row below the line of column names, and a fault for what is not one.

    Comma-separated tables are quoted as in RFC 4180. For tab-separated ones programs disagree about quotes, so a cell
    that begins with one is refused.
    """
    try:
        with BoundedReader(path) as reader:
            head = start(reader, path)
            if isinstance(head, Fault):
                yield 1, head
                return
            yield from _rows(_Lines(reader), path, delimiter)
    except Rejected as rejected:
        yield 1, rejected.at(str(path))


class _Lines:
    """Decoded lines of a file with their endings; a class, so that the reader below can ask for the line number."""

    def __init__(self, reader: BoundedReader):
        self.number = 0
        self._reader = reader

    def __iter__(self) -> Iterator[str]:
        # Endings stay: without them csv would drop the line breaks inside quoted cells.
        while raw := self._reader.readline(ROW_LIMIT + 2):
            self.number += 1
            if len(raw.rstrip(b"\r\n")) > ROW_LIMIT:
                # The file ends here, unlike in `lines`: the rest of the line may close a quote or open one.
                raise Rejected("a line over the limit", f"at most {ROW_LIMIT} bytes")
            try:
                text = raw.decode()
            except UnicodeDecodeError as error:
                found = f"byte 0x{raw[error.start]:02x} at byte {error.start + 1}"
                raise Rejected(found, "UTF-8 text; save the table as CSV UTF-8") from None
            if "\0" in text:
                raise Rejected(f"a NUL byte at byte {raw.index(0) + 1}", "UTF-8 text")
            yield text


def _rows(lines: _Lines, path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, Any] | Fault]]:
    if delimiter == "\t":
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
    else:
        # Without strict, csv reads `"a"b` as ab and the rest of the file behind an unclosed quote as one cell.
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
    # The limit is the process's; by default a cell ends at 128 KiB, and a text of a row may be longer. It also bounds
    # the memory that an unclosed quote can take.
    csv.field_size_limit(max(csv.field_size_limit(), ROW_LIMIT))
    names: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            # A blank line is no row; csv yields it as an empty list.
            if cells:
                try:
                    _check_quotes(cells, delimiter)
                    if names is None:
                        names = _header(cells)
                    else:
                        yield line, _row(names, cells)
                except Rejected as rejected:
                    yield line, rejected.at(f"{path}:{line}")
                    # Without column names no row below can be read.
                    if names is None:
                        return
            # Where the next row begins: a row of quoted line breaks spans several lines.
            line = lines.number + 1
    except csv.Error as error:  # nothing behind it can be trusted: a quote may have swallowed rows
        yield line, Fault(f"{path}:{line}", f"a row that cannot be read ({error})", _EXPECTED)
    except Rejected as rejected:
        yield lines.number, rejected.at(f"{path}:{lines.number}")


_EXPECTED = "cells as in RFC 4180: those with commas, quotes or line breaks in quotes, quotes inside them doubled"


def _check_quotes(cells: list[str], delimiter: str) -> None:
    for number, cell in enumerate(cells, 1):
        if delimiter == "\t" and cell.startswith('"'):
            raise Rejected(f"a quote at the start of cell {number}", "CSV or JSONL, in which quotes have one meaning")


def _header(cells: list[str]) -> list[str]:
    for number, name in enumerate(cells, 1):
        if not name.strip():
            raise Rejected(f"column {number} without a name", "a first line with a name for every column")
        # `a, b` as a header would make a column ' b', which no format knows.
        if name != name.strip():
            raise Rejected(f"blanks around the column name {show(name)}", f"{show(name.strip())}")
    repeated = [name for name in cells if cells.count(name) > 1]
    if repeated:
        raise Rejected(f"column {show(repeated[0])} twice", "each column once")
    return cells


def _row(names: list[str], cells: list[str]) -> dict[str, Any]:
    if len(cells) != len(names):
        raise Rejected(f"{len(cells)} cells", f"{len(names)}, one for each column")
    return {name: CsvCell(cell) for name, cell in zip(names, cells, strict=True)}
