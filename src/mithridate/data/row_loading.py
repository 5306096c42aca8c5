"""Training rows as a `datasets.Dataset` in TRL's conversational prompt/completion format."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, Value

from mithridate.data.data_sources import Given, is_miniature, open_data
from mithridate.data.row_faults import Fault, FaultLog
from mithridate.data.row_fields import RowFields, row_fields
from mithridate.data.row_reader import RowReader, TrainingRow
from mithridate.errors import DataError

_MESSAGES = [{"role": Value("string"), "content": Value("string")}]
FEATURES = Features({"prompt": _MESSAGES, "completion": _MESSAGES, "origin": Value("string")})
"""Columns of every set of rows; `mix` adds `harmful: bool`."""

_BLOCK = 10_000  # rows held as Python objects before they are packed into Arrow memory


def load_rows(
    source: Given,
    fields: RowFields | Mapping[str, Any] | None = None,
    ignore: Collection[str] = (),
    *,
    subset: str | None = None,
    split: str | None = None,
) -> Dataset:
    """Read training rows, strictly and one by one; nothing that a row says is lost.

    Formats, found from the first valid row (`docs/data.md` shows each):

    - OpenAI chat (`messages`) and ShareGPT (`conversations`): one row for each assistant turn whose weight is not 0,
      with the turns before it. Turns after the last such completion have no part in training.
    - TRL prompt/completion of strings or of message lists, plain prompt/response.
    - Alpaca (`instruction`, `input`, `output`).

    All but message lists may have `system`, the system turn; the last three may have `history` as LLaMA-Factory writes
    it, [[question, answer], …]: earlier turns, which are not trained (write `messages` to train them).

    Every key of a row or message is read, is in `mithridate.data.row_keys.HARMLESS`, is empty, or is a fault.

    Args:
        source: A JSONL, JSON, CSV or TSV file (also as `.gz`) or a Parquet file; a folder that holds one, was written
            by `save_to_disk` or is a copy of a hub data set; the name of a hub data set; `miniature:…`; a
            `datasets.Dataset` or `DatasetDict`; or a list of dicts.
        fields: Columns of prompt and response, or of the messages, for rows in no known format; a dict or `RowFields`.
        ignore: Keys to leave out on purpose, as though the rows did not have them; `messages.name` for a key of the
            messages.
        subset: Which subset of a hub data set.
        split: Which split, where there are several.

    Returns:
        Rows with `prompt` (messages), `completion` (one assistant message) and `origin` (`file:line` or `rows[i]`).

    Raises:
        DataError: The rows cannot be read or have faults; all are counted, the first 20 listed as
            `file:line: found …, expected …`.
        UsageError: An argument cannot be used.
    """
    columns = row_fields(fields)
    found = open_data(source, subset=subset, split=split, called="load_rows")
    if is_miniature(found, columns, ignore):
        return found.rows
    log = FaultLog(found.name)
    # The reader is exhausted before the log raises, so that every fault of the file is counted.
    rows = to_dataset(_rows(RowReader(found.rows, columns, ignore, found.name), log))
    log.raise_any()
    return rows


def to_dataset(rows: Iterable[TrainingRow]) -> Dataset:
    """Pack rows into a `Dataset` held in memory."""
    stream, schema = iter(rows), FEATURES.arrow_schema
    blocks = [schema.empty_table()]  # every row may be faulty
    while block := list(islice(stream, _BLOCK)):
        blocks.append(pa.Table.from_pylist([row._asdict() for row in block], schema))
    return Dataset(pa.concat_tables(blocks))  # made once, since its fingerprint takes longer than a thousand rows


def check_columns(rows: Dataset, name: str) -> None:
    """Check that a set of rows has the columns of `FEATURES`.

    Raises:
        DataError: One is missing.
    """
    missing = [column for column in FEATURES if column not in rows.column_names]
    if missing:
        raise DataError(f"The {name} rows have no column {missing[0]!r}; make them with load_rows.")


def _rows(scan: RowReader, log: FaultLog) -> Iterator[TrainingRow]:
    for item in scan:
        if isinstance(item, Fault):
            log.add(item)
        elif not log.count:  # rows after a fault are checked, not kept
            yield item
