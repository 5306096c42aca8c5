from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pairfolio.data.candles import load_candles
from pairfolio.data.pair import load_pair
from pairfolio.data.resample import resample
from pairfolio.errors import DataError, SettingsError

Write = Callable[..., Path]


def test_gaps_are_reported_and_count_as_one_step(write: Write, candle_rows: list[str]) -> None:
    a = write([*candle_rows[:3], *candle_rows[4:]], "A.csv")
    b = write(candle_rows, "B.csv")
    pair = load_pair([a, b])
    findings = pair.findings
    assert findings.common_bars == 5
    assert [gap.model_dump() for gap in findings.gaps] == [
        {"last": "2022-01-01T01:00:00Z", "next": "2022-01-01T03:00:00Z", "missing": 1}
    ]
    assert findings.files[0].missing_bars == 1
    assert findings.files[1].missing_bars == 0
    assert [(lost.before, lost.inside, lost.after) for lost in findings.lost] == [(0, 0, 0), (0, 1, 0)]
    assert pair.returns.shape == (4, 2)
    assert pair.returns[1, 0] == pytest.approx(102 / 101 - 1)


def test_different_ranges_are_joined_and_reported(write: Write, candle_rows: list[str]) -> None:
    a = write(candle_rows[:6], "A.csv")
    b = write([candle_rows[0], *candle_rows[3:]], "B.csv")
    pair = load_pair([a, b])
    assert [(lost.before, lost.inside, lost.after) for lost in pair.findings.lost] == [(2, 0, 0), (0, 0, 1)]
    assert pair.findings.first == "2022-01-01T02:00:00Z"


def test_ranges_without_overlap_are_refused(write: Write, candle_rows: list[str]) -> None:
    a = write(candle_rows[:4], "A.csv")
    b = write([candle_rows[0], *candle_rows[4:]], "B.csv")
    with pytest.raises(DataError, match=r"A\.csv and B\.csv share 0 bars"):
        load_pair([a, b])


def test_different_intervals_are_refused(write: Write, candle_rows: list[str]) -> None:
    a = write(candle_rows, "A.csv")
    b = write([candle_rows[0], *candle_rows[1::2]], "B.csv")
    with pytest.raises(DataError, match=r"A\.csv 1h, B\.csv 2h"):
        load_pair([a, b])


def test_a_range_can_be_chosen(write: Write, candle_rows: list[str]) -> None:
    paths = [write(candle_rows, "A.csv"), write(candle_rows, "B.csv")]
    start, end = pd.Timestamp("2022-01-01T01:00Z"), pd.Timestamp("2022-01-01T04:00Z")
    assert len(load_pair(paths, start=start, end=end).times) == 3
    with pytest.raises(DataError, match=r"0 candles lie in the range"):
        load_pair(paths, start=pd.Timestamp("2023-01-01T00:00Z"))


def test_resampling_keeps_complete_groups_only(write: Write, candle_rows: list[str]) -> None:
    candles = load_candles(write([*candle_rows[:3], *candle_rows[4:]]))
    longer = resample(candles, pd.Timedelta("2h")).frame
    assert longer.index.strftime("%H").tolist() == ["00", "04"]
    assert longer.iloc[0].tolist() == [99.5, 102, 99, 101, 21]
    with pytest.raises(SettingsError, match="choose a multiple"):
        resample(candles, pd.Timedelta("90min"))


def test_odd_bars_are_reported(write: Write, candle_rows: list[str]) -> None:
    violent = candle_rows[-1].split(",")
    violent[3:5] = ["30", "40"]
    flat = "2022-01-01T06:00:00Z,40,40,40,40,0"
    path = write([*candle_rows[:-1], ",".join(violent), flat], "A.csv")
    file = load_pair([path, write(candle_rows, "B.csv")]).findings.files[0]
    assert file.zero_volume_bars == 1
    assert file.unchanged_bars == 1
    assert [(event.time, round(event.value, 3)) for event in file.extreme_returns] == [
        ("2022-01-01T05:00:00Z", -0.612)
    ]


def test_correlation_of_a_still_asset_is_zero(write: Write, candle_rows: list[str]) -> None:
    still = [candle_rows[0], *(f"{row[:20]},5,5,5,5,1" for row in candle_rows[1:])]
    findings = load_pair([write(candle_rows, "A.csv"), write(still, "B.csv")]).findings
    assert findings.correlation == 0
    assert np.isfinite(findings.bars_per_year)
