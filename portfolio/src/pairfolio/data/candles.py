"""One file of candles: parsed and refused at the first row that cannot be true."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pairfolio.data.table import COLUMNS, Table, read_table
from pairfolio.errors import DataError
from pairfolio.interval import infer_interval

PRICES = COLUMNS[1:5]
# Epochs from 1973 to 5138 in s, ms and µs never overlap; a smaller number is a date such as 20210402.
SMALLEST_EPOCH = 10**8
EPOCH_UNITS = ((10**11, 1_000_000), (10**14, 1_000), (10**17, 1))


@dataclass(frozen=True)
class Candles:
    """Candles of one asset on a fixed interval, with gaps left open.

    Attributes:
        name: File name, used in messages.
        frame: Columns open, high, low, close, volume; index the bars' opening in UTC.
        interval: Time from one bar to the next.
        first_line: Line of the file that holds the first candle.
        sha256: Of the file; None for candles that come from none.
    """

    name: str
    frame: pd.DataFrame
    interval: pd.Timedelta
    first_line: int = 2
    sha256: str | None = None


def load_candles(path: Path) -> Candles:
    """Read a candle file and check every row.

    Raises:
        DataError: At the first row with a bad time or number, a price of zero or below, a range that does
            not hold open and close, a repeated or earlier time; or if the bars share no grid.
    """
    table = read_table(path)
    times = _times(path.name, table)
    numbers = {column: _numbers(path.name, table, column) for column in COLUMNS[1:]}
    frame = pd.DataFrame(numbers, index=pd.DatetimeIndex(times, name="open_time"))
    check_frame(path.name, frame, table.first_line)
    interval = infer_interval(pd.DatetimeIndex(frame.index), path.name)
    return Candles(path.name, frame, interval, table.first_line, table.sha256)


def check_frame(name: str, frame: pd.DataFrame, first_line: int = 2) -> None:
    """Refuse disorder, duplicates, prices at or below zero and impossible ranges, naming the row."""
    if len(frame) < 2:
        raise DataError(f"{name}: {len(frame)} candles; at least two are needed")
    _check_order(name, pd.DatetimeIndex(frame.index), first_line)
    for column in PRICES:
        _refuse(name, frame[column].to_numpy() <= 0, first_line, f"the {column} is not above zero")
    _refuse(name, frame["volume"].to_numpy() < 0, first_line, "the volume is negative")
    body = frame[["open", "close"]]
    outside = (frame["low"] > body.min(axis=1)) | (frame["high"] < body.max(axis=1))
    _refuse(name, outside.to_numpy(), first_line, "open or close lies outside low to high")


def _check_order(name: str, times: pd.DatetimeIndex, first_line: int) -> None:
    steps = np.diff(times.asi8)
    bad = np.flatnonzero(steps <= 0)
    if len(bad):
        row = int(bad[0]) + 1
        word = "repeats the time of" if steps[bad[0]] == 0 else "is earlier than"
        raise DataError(
            f"{name}, row {row + first_line}: {times[row].isoformat()} {word} the row before; "
            "sort the file and keep one row for each time"
        )


def _refuse(name: str, bad: np.ndarray, first_line: int, what: str) -> None:
    if bad.any():
        raise DataError(f"{name}, row {int(np.argmax(bad)) + first_line}: {what}; mend or remove the row")


def _numbers(name: str, table: Table, column: str) -> np.ndarray:
    texts = pd.Series(table.columns[column], dtype=str)
    values = pd.to_numeric(texts, errors="coerce").to_numpy(dtype=float)
    _refuse(name, ~np.isfinite(values), table.first_line, f"the {column} is not a finite number")
    return values


def _times(name: str, table: Table) -> pd.DatetimeIndex:
    """Opening times from ISO 8601 (UTC where no offset is given) or epochs in s, ms or µs."""
    texts = table.columns["open_time"]
    if texts and texts[0].isdecimal():
        micro = np.array([_microseconds(text) for text in texts], dtype=np.int64)
        _refuse(name, micro < 0, table.first_line, "the time is not an epoch in s, ms or µs")
        return pd.DatetimeIndex(pd.to_datetime(micro, unit="us", utc=True)).as_unit("us")
    stamps = pd.DatetimeIndex(
        pd.to_datetime(pd.Series(texts, dtype=str), utc=True, format="ISO8601", errors="coerce")
    )
    _refuse(name, np.asarray(stamps.isna()), table.first_line, "the time is not ISO 8601")
    return stamps.as_unit("us")


def _microseconds(text: str) -> int:
    """One epoch in microseconds; -1 if it is none (archives changed from ms to µs, so each row decides)."""
    value = int(text) if text.isdecimal() and len(text) < 18 else -1
    return next((value * factor for limit, factor in EPOCH_UNITS if SMALLEST_EPOCH <= value < limit), -1)
