"""JSON objects from a file, one at a time; what JSON parsers let through but JSON does not allow is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mithridate.data.csv_files import delimiter_of, table
from mithridate.data.parquet_files import parquet_rows
from mithridate.data.row_faults import Fault, Rejected, kind, show
from mithridate.data.text_files import BoundedReader, RawRow, cut

_JSON_OR_TABLE = "one JSON object on each line, or a table in a file named .csv or .tsv"


class FileRecord(NamedTuple):
    """A row as it was written, and the line at which it begins or its number in a Parquet file, 1-based."""

    line: int
    fields: dict[str, Any]


def records(path: Path) -> Iterator[FileRecord | Fault]:
    """Yield the objects of a JSONL file, a JSON array, a CSV or Parquet table, and a fault for anything else."""
    if rows := _table_rows(path):
        for line, fields in rows:
            yield fields if isinstance(fields, Fault) else FileRecord(line, fields)
        return
    for raw in raw_rows(path):
        if isinstance(raw, Fault):
            yield raw
            continue
        try:
            yield FileRecord(raw.line, parse(decode(raw.raw)))
        except Rejected as rejected:
            yield rejected.at(f"{path}:{raw.line}")


def _table_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | Fault]] | None:
    if path.suffix.lower() == ".parquet":
        return parquet_rows(path)
    delimiter = delimiter_of(path)
    return _rows(path, delimiter) if delimiter else None


def _rows(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, Any] | Fault]]:
    empty = True
    for line, fields in table(path, delimiter):
        empty = False
        yield line, fields
    if empty:
        yield 1, Fault(f"{path}:1", "a table without rows", "a line of column names, and rows below it")


def raw_rows(path: Path) -> Iterator[RawRow | Fault]:
    """Yield the lines or array elements of a file; a file without any is a fault."""
    empty = True
    try:
        with BoundedReader(path) as reader:
            for raw in cut(reader, path):
                empty = False
                yield raw
    except Rejected as rejected:
        yield rejected.at(str(path))
        return
    if empty:
        yield Fault(f"{path}:1", "an empty file", "at least one row")


def decode(raw: bytes) -> str:
    """Return UTF-8 text.

    Raises:
        Rejected: The bytes are not UTF-8, or hold a NUL.
    """
    # NUL is valid UTF-8, but in practice a sign of UTF-16 without a mark, or of a binary file.
    if b"\0" in raw:
        raise Rejected(f"a NUL byte at byte {raw.index(0) + 1}", "UTF-8 text")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        found = f"byte 0x{raw[error.start]:02x} at byte {error.start + 1}"
        raise Rejected(found, "UTF-8 text") from None


def parse(text: str) -> dict[str, Any]:
    """Return the JSON object that a text holds.

    Raises:
        Rejected: The text is not valid JSON or not an object, is nested too deeply, repeats a key, or holds a
            number that JSON lacks (NaN, Infinity) or that overflows.
    """
    # Two commas in a row in an array; the line cutter never yields an empty line.
    if not text:
        raise Rejected("no value between two commas", "a JSON object")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        if text[0] not in '{["':
            raise Rejected(f"text that is not JSON ({show(text)})", _JSON_OR_TABLE) from None
        found = f"invalid JSON ({error.msg} at character {error.pos + 1})"
        raise Rejected(found, "one JSON object") from None
    except RecursionError:
        raise Rejected("JSON nested too deeply", "an object of a few levels") from None
    # int() refuses more digits than sys.get_int_max_str_digits(), as parsing them takes quadratic time.
    except ValueError:
        raise Rejected("a number of more than 4300 digits", "an ordinary number") from None
    if not isinstance(value, dict):
        raise Rejected(kind(value), "a JSON object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # JSON leaves open what a repeated key means; Python would silently keep the last.
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Rejected(f"key {show(repeated)} twice", "each key once")
    return fields


def _constant(name: str) -> float:
    raise Rejected(f"the number {name}", "a finite number")


def _float(text: str) -> float:
    # 1e999 is valid JSON and becomes infinite here; parse_constant does not see it.
    number = float(text)
    if not math.isfinite(number):
        raise Rejected(f"the number {text[:20]}", "a finite number")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
