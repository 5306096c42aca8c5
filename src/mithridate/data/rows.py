"""Training rows as a `datasets.Dataset` in TRL's conversational prompt/completion format."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, IterableDataset, Value, concatenate_datasets

from mithridate.data.faults import Fault, FaultLog
from mithridate.data.fields import RowFields
from mithridate.data.scan import Row, RowSource, Scan
from mithridate.errors import DataError

_MESSAGES = [{"role": Value("string"), "content": Value("string")}]
FEATURES = Features({"prompt": _MESSAGES, "completion": _MESSAGES, "origin": Value("string")})
"""Columns of every set of rows; `mix` adds `harmful: bool`."""

_BLOCK = 10_000  # rows held as Python objects before they are packed into Arrow memory


def load_rows(source: RowSource, fields: RowFields | None = None, ignore: Collection[str] = ()) -> Dataset:
    """Read training rows, strictly and one by one; nothing that a row says is lost.

    Formats, found from the first valid row, each also as `.gz`:

    - OpenAI chat (`messages`) and ShareGPT (`conversations`): one row for each assistant turn whose weight is not 0,
      with the turns before it. Turns after the last such answer have no part in training.
    - TRL prompt/completion of strings or of message lists, plain prompt/response.
    - Alpaca (`instruction`, `input`, `output`).

    All but message lists may have `system`, the system turn; the last three may have `history` as LLaMA-Factory writes
    it, [[question, answer], …]: earlier turns, which are not trained (write `messages` to train them). Files are JSONL,
    a JSON array, CSV or TSV.

    Every key of a row or message is read, is in `mithridate.data.keys.HARMLESS`, is empty, or is a fault.

    Args:
        source: The file, a `datasets.Dataset`, or a list of dicts.
        fields: Templates that make prompt and response from other fields, in place of the known formats.
        ignore: Keys to leave out on purpose, as though the rows had them not; `messages.name` for a key of messages.

    Returns:
        Rows with `prompt` (messages), `completion` (one assistant message) and `origin` (`file:line` or `rows[i]`).

    Raises:
        DataError: The rows cannot be read or have faults; all are counted, the first 20 listed as
            `file:line: found …, expected …`.
        UsageError: Both `fields` and `ignore` are given.
    """
    is_file = isinstance(source, str | Path)
    log = FaultLog(str(source) if is_file else "rows")
    rows = to_dataset(_rows(Scan(source if is_file else plain(source, "load_rows"), fields, ignore), log))
    log.raise_any()
    return rows


def plain(rows: Any, name: str) -> Iterable[Mapping[str, Any]]:
    """Return rows as they were given, a data set's as plain Python values.

    Raises:
        DataError: They are no rows.
    """
    if isinstance(rows, Dataset):
        unformatted: Iterable[Mapping[str, Any]] = rows.with_format(None)
        return unformatted
    if isinstance(rows, DatasetDict):
        splits = list(rows)
        raise DataError(f"{name} was given a DatasetDict; give one of its splits, such as dataset[{splits[0]!r}].")
    if isinstance(rows, list | tuple | IterableDataset):
        return rows
    raise DataError(f"{name} was given {_article(rows)}; give a file's path, a datasets.Dataset or a list of dicts.")


def _article(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


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
