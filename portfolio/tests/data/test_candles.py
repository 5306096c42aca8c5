import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pairfolio.data.candles import load_candles
from pairfolio.errors import DataError

Write = Callable[..., Path]
DAY = 1_640_995_200  # 2022-01-01T00:00:00Z in seconds


def archive(unit: int) -> list[str]:
    """Four rows in the exchange's 12-column form."""
    return [
        f"{(DAY + 3600 * i) * unit},100,102,99,{100 + i},7,{(DAY + 3600 * (i + 1)) * unit - 1},700,5,3,300,0"
        for i in range(3)
    ]


def test_header_form(write: Write, candle_rows: list[str]) -> None:
    candles = load_candles(write(candle_rows))
    assert len(candles.frame) == 6
    assert candles.interval == pd.Timedelta("1h")
    assert candles.frame["close"].tolist() == [100, 101, 100, 102, 103, 101]
    assert candles.frame.index[1] == pd.Timestamp("2022-01-01T01:00:00Z")


def test_gzip_is_known_by_its_content(tmp_path: Path, candle_rows: list[str]) -> None:
    path = tmp_path / "A.csv"
    path.write_bytes(gzip.compress("\n".join(candle_rows).encode()))
    assert len(load_candles(path).frame) == 6


@pytest.mark.parametrize("unit", [1, 1000, 1_000_000])
def test_archive_form_in_any_epoch(write: Write, unit: int) -> None:
    candles = load_candles(write(archive(unit)))
    assert candles.frame.index[0] == pd.Timestamp("2022-01-01T00:00:00Z")
    assert candles.frame["close"].tolist() == [100, 101, 102]
    assert candles.frame["volume"].tolist() == [7, 7, 7]


def test_a_file_may_change_from_milliseconds_to_microseconds(write: Write) -> None:
    candles = load_candles(write([*archive(1000)[:2], archive(1_000_000)[2]]))
    assert candles.interval == pd.Timedelta("1h")
    assert candles.frame.index[2] == pd.Timestamp("2022-01-01T02:00:00Z")


def test_other_columns_and_orders_are_allowed(write: Write) -> None:
    lines = ["Close,Time,Open,High,Low,Trades,Volume", "2,2022-01-01,2,3,1,9,5", "2.5,2022-01-02,2,3,1,9,5"]
    assert load_candles(write(lines)).frame["close"].tolist() == [2, 2.5]


Spoil = Callable[[list[str]], list[str]]


def at(line: int, old: str, new: str) -> Spoil:
    """Replace text in one line of the file, counted from 1."""
    return lambda rows: [row.replace(old, new) if place == line else row for place, row in enumerate(rows, 1)]


FAULTS: list[tuple[Spoil, str]] = [
    (lambda rows: [*rows[:3], rows[2], *rows[3:]], r"row 4: .* repeats the time"),
    (lambda rows: [rows[0], rows[2], rows[1], *rows[3:]], r"row 3: .* is earlier"),
    (at(5, ",103,101,102,", ",103,101,0,"), "row 5: the close is not above zero"),
    (at(3, ",102,100,", ",102,-1,"), "row 3: the low is not above zero"),
    (at(3, ",102,100,", ",nan,100,"), "row 3: the high is not a finite number"),
    (at(3, ",102,100,", ",inf,100,"), "row 3: the high is not a finite number"),
    (at(3, ",102,100,", ",100.7,100,"), "row 3: open or close lies outside"),
    (at(3, ",11", ",-11"), "row 3: the volume is negative"),
    (at(3, "2022-01-01T01:00:00Z", "yesterday"), "row 3: the time is not ISO"),
    (at(5, "T03:00", "T03:20"), "T03:20:00.* off the 1h grid"),
    (lambda rows: [*rows[:2], "", *rows[3:]], "row 3: 0 columns instead of 6"),
    (lambda rows: [*rows[:2], rows[2] + ",9", *rows[3:]], "row 3: 7 columns instead of 6"),
    (lambda rows: ["open_time,open,high,low,volume"], "row 1: no column close"),
    (lambda rows: rows[:2], "1 candles; at least two"),
    (lambda rows: ["1640995200000,1,2,1,1,5"], "row 1: 6 columns and no header"),
    (lambda rows: [*archive(1000), "20220101,1,1,1,1,1,1,1,1,1,1,1"], "row 4: the time is not an epoch"),
    (lambda rows: [], "is empty"),
    (lambda rows: [rows[0], 'a,"b'], "not a CSV file"),
]


@pytest.mark.parametrize(("spoil", "message"), FAULTS)
def test_bad_files_are_refused_by_name_and_row(
    write: Write, candle_rows: list[str], spoil: Spoil, message: str
) -> None:
    spoiled = spoil(candle_rows)
    assert spoiled != candle_rows
    with pytest.raises(DataError, match=message) as caught:
        load_candles(write(spoiled, "spoiled.csv"))
    assert "spoiled.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x1f\x8b\x08broken", "cannot be read"),
        (gzip.compress(b"open_time", mtime=0)[:-6], "cannot be read"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_damaged_bytes_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "A.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_candles(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: there is no such file"):
        load_candles(tmp_path / "none.csv")


def test_gaps_stay_open(write: Write, candle_rows: list[str]) -> None:
    candles = load_candles(write([*candle_rows[:3], *candle_rows[4:]]))
    assert len(candles.frame) == 5
    assert np.isfinite(candles.frame.to_numpy()).all()
