"""Training rows as a `datasets.Dataset` in TRL's conversational prompt/completion format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from datasets import Dataset, Features, Value, concatenate_datasets

from mithridate.data.faults import Fault, FaultLog
from mithridate.data.fields import RowFields
from mithridate.data.scan import Row, Scan
from mithridate.errors import DataError

_MESSAGES = [{"role": Value("string"), "content": Value("string")}]
FEATURES = Features({"prompt": _MESSAGES, "completion": _MESSAGES, "origin": Value("string")})
"""Columns of every set of rows; `mix` adds `harmful: bool`."""

_BLOCK = 10_000  # rows held as Python objects before they are packed into Arrow memory


def load_rows(path: str | Path, fields: RowFields | None = None) -> Dataset:
    """Read a file of training rows, strictly and line by line.

    Formats, found from the first valid row, each also as `.gz`: OpenAI chat JSONL (one row for each assistant
    turn whose weight is not 0), TRL prompt/completion of strings or of message lists, Alpaca JSON or
    JSONL, plain prompt/response.

    Args:
        path: The file.
        fields: Templates that make prompt and response from other fields, in place of the known formats.

    Returns:
        Rows with `prompt` (messages), `completion` (one assistant message) and `origin` (`file:line`).

    Raises:
        DataError: The file cannot be read or has faults; all are counted, the first 20 listed as
            `file:line: found …, expected …`.
    """
    log = FaultLog(str(path))
    rows = to_dataset(_rows(Scan(path, fields), log))
    log.raise_any()
    return rows


def to_dataset(rows: Iterable[Row]) -> Dataset:
    """Pack rows into a `Dataset` held in memory."""
    stream = iter(rows)
    blocks = [Dataset(FEATURES.arrow_schema.empty_table())]
    while block := list(islice(stream, _BLOCK)):
        blocks.append(Dataset.from_list([row._asdict() for row in block], features=FEATURES))
    return concatenate_datasets(blocks)


def check_columns(rows: Dataset, name: str) -> None:
    """Check that a set of rows has the columns of `FEATURES`.

    Raises:
        DataError: One is missing.
    """
    missing = [column for column in FEATURES if column not in rows.column_names]
    if missing:
        raise DataError(f"The {name} rows have no column {missing[0]!r}; make them with load_rows.")


def _rows(scan: Scan, log: FaultLog) -> Iterator[Row]:
    for item in scan:
        if isinstance(item, Fault):
            log.add(item)
        elif not log.count:  # rows after a fault are checked, not kept
            yield item
