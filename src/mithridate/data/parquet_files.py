"""Rows of Parquet files, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mithridate.data.row_faults import Fault, Rejected, show
from mithridate.data.text_files import ROW_LIMIT, file_size

_BATCH = 64  # rows decoded at a time; a page that repeats one long value may expand when it is decoded
_EXPECTED = "a Parquet file that is whole and not encrypted"


def parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | Fault]]:
    """Yield (number, row) for each row of a Parquet file, 1-based, and a fault for what cannot be read."""
    import pyarrow as pa  # here, because the check of a text file should not wait for it
    from pyarrow import parquet

    number = 0
    try:
        file_size(path)  # refuses what is no regular file
        # Not mapped: a file that shrinks while it is read would kill the process with SIGBUS, not raise.
        with parquet.ParquetFile(path, memory_map=False) as file:
            _check_columns(file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=_BATCH):
                if batch.nbytes > _BATCH * ROW_LIMIT:
                    raise Rejected("rows over the limit", f"at most {ROW_LIMIT} bytes in a row")
                for i in range(batch.num_rows):
                    number += 1
                    # Row by row, so that a value that cannot be decoded is the fault of its own row, not of the batch.
                    yield number, _row(batch.slice(i, 1), f"{path}:{number}")
        if not number:
            yield 1, Fault(f"{path}:1", "a table without rows", "at least one row")
    except Rejected as rejected:
        yield number + 1, rejected.at(f"{path}:{number + 1}" if number else str(path))
    except (pa.ArrowException, OSError) as error:
        where = f"{path}:{number + 1}" if number else str(path)
        yield number + 1, Fault(where, f"Parquet data that cannot be read ({_short(error)})", _EXPECTED)


def _check_columns(names: list[str]) -> None:
    # to_pylist() makes dicts, in which the last of two equal columns would win in silence.
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise Rejected(f"column {show(repeated[0])} twice", "each column once")


def _row(batch: Any, where: str) -> dict[str, Any] | Fault:
    try:
        row: dict[str, Any] = batch.to_pylist()[0]
    except (ValueError, OverflowError) as error:  # a text that is not UTF-8, a date outside of Python's calendar
        return Fault(where, f"a value that cannot be read ({_short(error)})", "UTF-8 text, numbers, lists or objects")
    return row


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
