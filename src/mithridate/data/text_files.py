"""Bounded reading of plain and gzip files, cut into lines or into the elements of a JSON array.

Nothing here trusts a file: no line, element or decompressed stream is held beyond its limit, and
whatever is wrong comes out as a `Fault` in place of the piece.
"""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from mithridate.data.json_array import ElementCutter
from mithridate.data.row_faults import Fault, Rejected

ROW_LIMIT = 1 << 20
"""Maximum bytes in one line, or in one element of a JSON array: about 250,000 tokens of English."""

EXPANSION_LIMIT = 200
"""Maximum bytes that one byte of a gzip file may expand to, once `EXPANSION_FLOOR` is passed; gzip can reach 1032."""

EXPANSION_FLOOR = 64 << 20
"""Decompressed bytes up to which any expansion is accepted, as small files may honestly repeat one row."""

_CHUNK = 1 << 16
_BOM = b"\xef\xbb\xbf"
_TEXT = "UTF-8 text, or one layer of gzip in a file named .gz"
_SHEET = "the sheet saved as CSV (UTF-8), in a file named .csv"
# First bytes of formats that people upload by mistake; each gets its own way out.
_FOREIGN = {
    b"\xff\xfe": ("UTF-16 text", _TEXT),
    b"\xfe\xff": ("UTF-16 text", _TEXT),
    b"\x1f\x8b": ("gzip data", _TEXT),
    b"PK\x03\x04": ("a zip archive", "the data file that was packed in it"),
    b"\xd0\xcf\x11\xe0": ("an Excel workbook", _SHEET),
    b"PAR1": ("a Parquet file", "a file named .parquet"),
    b"ARROW1": ("an Arrow file", "JSONL or CSV, or in Python load_rows(datasets.Dataset.from_file(path))"),
    b"\x28\xb5\x2f\xfd": ("zstd data", _TEXT),
    b"BZh": ("bzip2 data", _TEXT),
    b"\xfd7zXZ": ("xz data", _TEXT),
    b"%PDF-": ("a PDF", "JSONL or CSV"),
    b"SQLite format 3": ("a SQLite database", "a table of it saved as CSV, in a file named .csv"),
}


class RawRow(NamedTuple):
    """One line or array element, not parsed yet.

    Attributes:
        line: Line at which it begins, 1-based.
        raw: Its bytes.
    """

    line: int
    raw: bytes


class BoundedReader:
    """A plain or gzip file that is read in bounded steps; a context manager.

    Raises:
        Rejected: The path is missing, forbidden, or not a regular file.
    """

    def __init__(self, path: Path):
        # Before opening: open() of a pipe would wait for a writer.
        self.size = file_size(path)
        self.expanded = 0
        self._file: BufferedReader | gzip.GzipFile
        try:
            self._file = gzip.GzipFile(path) if path.suffix.lower() == ".gz" else path.open("rb")
        except OSError as error:
            raise _unreadable(error) from None

    def __enter__(self) -> BoundedReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, limit: int) -> bytes:
        """Return up to `limit` bytes, empty at the end."""
        return self._counted(self._guarded(self._file.read, limit))

    def readline(self, limit: int) -> bytes:
        """Return the next line or its first `limit` bytes, empty at the end."""
        return self._counted(self._guarded(self._file.readline, limit))

    def peek(self) -> bytes:
        """Return some of the next bytes without moving on, empty at the end."""
        return self._guarded(self._file.peek, _CHUNK)

    def _guarded(self, read: Callable[[int], bytes], limit: int) -> bytes:
        try:
            return read(limit)
        except EOFError:
            raise Rejected("a truncated gzip stream", "a complete one") from None
        except gzip.BadGzipFile:
            raise Rejected("data that is not gzip", "gzip data in a file named .gz") from None
        except zlib.error:
            raise Rejected("a damaged gzip stream", "an intact one") from None
        except OSError as error:
            raise _unreadable(error) from None

    def _counted(self, data: bytes) -> bytes:
        self.expanded += len(data)
        if self.expanded > max(EXPANSION_FLOOR, EXPANSION_LIMIT * self.size):
            raise Rejected(
                f"a gzip stream that expands beyond {EXPANSION_LIMIT} times its size",
                "ordinary compressed text",
            )
        return data


def cut(reader: BoundedReader, path: Path) -> Iterator[RawRow | Fault]:
    """Yield the lines of a file, or the elements of the JSON array that it holds.

    A file named `.jsonl` or `.txt` is always read by lines; any other is an array where it begins with `[`.
    """
    head = start(reader, path)
    if isinstance(head, Fault):
        yield head
        return
    # By its name where that says it, since a line of JSONL may begin with `[` by mistake and must be named.
    name = path.stem if path.suffix.lower() == ".gz" else path.name
    by_lines = name.endswith((".jsonl", ".txt")) or not head.lstrip().startswith(b"[")
    yield from lines(reader, path) if by_lines else _elements(reader, path)


def start(reader: BoundedReader, path: Path) -> bytes | Fault:
    """Move past a byte order mark and return some of the bytes behind it, or the fault of a file that is no text."""
    try:
        head = reader.peek()
        if fault := _foreign(head, path):
            return fault
        if head.startswith(_BOM):
            reader.read(len(_BOM))
    except Rejected as rejected:
        return rejected.at(f"{path}:1")
    return head.removeprefix(_BOM)


def lines(reader: BoundedReader, path: Path) -> Iterator[RawRow | Fault]:
    """Yield the lines that are not blank; a line over `ROW_LIMIT` is skipped unread and is a fault."""
    number = 1
    try:
        while raw := reader.readline(ROW_LIMIT + 2):  # 2: the line ending, which is not counted
            if len(raw.rstrip(b"\r\n")) > ROW_LIMIT:
                yield too_long(f"{path}:{number}", "a line")
                # In small pieces, none of them kept, until the next line begins.
                while raw and not raw.endswith(b"\n"):
                    raw = reader.readline(_CHUNK)
            elif stripped := raw.strip():
                yield RawRow(number, stripped)
            number += 1
    except Rejected as rejected:
        yield rejected.at(f"{path}:{number}")


def _elements(reader: BoundedReader, path: Path) -> Iterator[RawRow | Fault]:
    cutter = ElementCutter(ROW_LIMIT)
    try:
        while chunk := reader.read(_CHUNK):
            for line, raw in cutter.feed(chunk):
                yield too_long(f"{path}:{line}", "an array element") if raw is None else RawRow(line, raw)
        cutter.close()
    except Rejected as rejected:
        yield rejected.at(f"{path}:{cutter.line}")


def too_long(where: str, what: str) -> Fault:
    """Return the fault for a piece over the limit."""
    return Fault(where, f"{what} over the limit", f"at most {ROW_LIMIT} bytes")


def _foreign(head: bytes, path: Path) -> Fault | None:
    for magic, (name, expected) in _FOREIGN.items():
        if head.startswith(magic):
            # Both are zip archives by their first bytes; unpacking one would not help.
            if path.suffix in (".xlsx", ".ods"):
                name, expected = "an Excel workbook", _SHEET
            return Fault(f"{path}:1", name, expected)
    return None


def file_size(path: Path) -> int:
    """Return the size of a regular file in bytes.

    Raises:
        Rejected: It is missing, forbidden, or no regular file.
    """
    try:
        # Follows links: a file in the hub's cache is a link to a blob.
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise Rejected("no file", "an existing data file") from None
    except OSError as error:
        raise _unreadable(error) from None
    except ValueError:
        raise Rejected("a file name with a NUL", "a file name") from None
    if stat.S_ISDIR(status.st_mode):
        raise Rejected("a folder", "a data file")
    if not stat.S_ISREG(status.st_mode):
        raise Rejected("a device or pipe", "a regular file")
    return status.st_size


def _unreadable(error: OSError) -> Rejected:
    return Rejected(f"a file that cannot be read ({error.strerror})", "a readable file")
