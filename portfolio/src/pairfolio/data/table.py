"""Candle files as text: plain or gzip, with a header or in the exchange's 12-column archive form."""

import csv
import gzip
import hashlib
import io
import zlib
from pathlib import Path
from typing import NamedTuple

from pairfolio.errors import DataError

COLUMNS = ("open_time", "open", "high", "low", "close", "volume")
TIME_NAMES = ("open_time", "time", "timestamp", "date", "datetime", "open time")
ARCHIVE_WIDTH = 12
GZIP_MAGIC = b"\x1f\x8b"
ZIP_MAGIC = b"PK\x03\x04"


class Table(NamedTuple):
    """The six columns as strings, the line of the file that holds the first of them, and the file's hash."""

    columns: dict[str, list[str]]
    first_line: int
    sha256: str


def read_table(path: Path) -> Table:
    """Read the candle columns of a file as text.

    Raises:
        DataError: If the file is missing, damaged, empty, ragged or of unknown form.
    """
    try:
        text, sha256 = _decode(path)
        rows = list(csv.reader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise DataError(f"{path.name}: this is not a CSV file ({error}); give candles") from error
    while rows and not rows[-1]:
        rows.pop()
    if not rows:
        raise DataError(f"{path.name}: the file is empty; give candles")
    first = [cell.strip().lower() for cell in rows[0]]
    if first[0].isdecimal():
        if len(first) != ARCHIVE_WIDTH:
            raise DataError(
                f"{path.name}, row 1: {len(first)} columns and no header; give a header with "
                f"{', '.join(COLUMNS)}, or the exchange's {ARCHIVE_WIDTH} columns"
            )
        return _pick(path.name, rows, first, dict(zip(COLUMNS, range(6), strict=True)), 1, sha256)
    return _pick(path.name, rows[1:], first, _places(path.name, first), 2, sha256)


def _decode(path: Path) -> tuple[str, str]:
    """The text of a file, and the SHA-256 of its bytes as they lie on the disk."""
    try:
        raw = path.read_bytes()
        sha256 = hashlib.sha256(raw).hexdigest()
        if raw.startswith(ZIP_MAGIC):
            raise DataError(f"{path.name}: this is a zip archive; unpack it first")
        if raw.startswith(GZIP_MAGIC):
            raw = gzip.decompress(raw)
        return raw.decode("utf-8-sig"), sha256
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); fetch it again") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}: byte {error.start} is not UTF-8 text; give a CSV file") from error


def _places(name: str, header: list[str]) -> dict[str, int]:
    places = {column: header.index(column) for column in COLUMNS[1:] if column in header}
    times = [header.index(word) for word in TIME_NAMES if word in header]
    if times:
        places["open_time"] = times[0]
    missing = [column for column in COLUMNS if column not in places]
    if missing:
        raise DataError(f"{name}, row 1: no column {', '.join(missing)}; give {', '.join(COLUMNS)}")
    return places


def _pick(
    name: str, rows: list[list[str]], header: list[str], places: dict[str, int], first_line: int, sha256: str
) -> Table:
    width = len(header)
    for line, row in enumerate(rows, first_line):
        if len(row) != width:
            raise DataError(
                f"{name}, row {line}: {len(row)} columns instead of {width}; mend or remove the row"
            )
    return Table(
        {column: [row[place].strip() for row in rows] for column, place in places.items()},
        first_line,
        sha256,
    )
