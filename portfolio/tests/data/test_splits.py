from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pairfolio.data.candles import Candles, load_candles
from pairfolio.data.pair import load_pair
from pairfolio.data.splits import find_jumps, find_splits, settle_splits
from pairfolio.errors import DataError

Write = Callable[..., Path]


def with_split(rows: list[str], factor: float) -> list[str]:
    """Prices before the fourth candle in older units."""
    out = [rows[0]]
    for place, row in enumerate(rows[1:]):
        time, *prices, volume = row.split(",")
        unit = factor if place < 3 else 1.0
        out.append(",".join([time, *(repr(float(price) / unit) for price in prices), volume]))
    return out


@pytest.mark.parametrize("factor", [100_000.0, 10.0, 5.0, 0.25, 0.001])
def test_a_split_is_refused_with_file_and_row_then_adjusted(
    write: Write, candle_rows: list[str], factor: float
) -> None:
    path = write(with_split(candle_rows, factor), "B.csv")
    other = write(candle_rows, "A.csv")
    with pytest.raises(DataError, match=r"B\.csv, row 5: .* a split; adjust it with --adjust-splits"):
        load_pair([other, path])
    pair = load_pair([other, path], adjust_splits=True)
    np.testing.assert_allclose(pair.returns[:, 1], pair.returns[:, 0], rtol=1e-9)
    event = pair.findings.files[1].adjusted_splits[0]
    assert event.time == "2022-01-01T03:00:00Z"
    assert event.value == pytest.approx(factor)


def test_a_stated_split_is_applied(write: Write, candle_rows: list[str]) -> None:
    path = write(with_split(candle_rows, 7.0), "B.csv")
    stated = {"B.csv": [(pd.Timestamp("2022-01-01T03:00Z"), 7.0)]}
    pair = load_pair([write(candle_rows, "A.csv"), path], splits=stated)
    np.testing.assert_allclose(pair.returns[:, 1], pair.returns[:, 0], rtol=1e-9)
    assert pair.findings.files[1].adjusted_splits[0].value == 7.0


def test_a_factor_that_cannot_be_told_must_be_stated(write: Write, candle_rows: list[str]) -> None:
    candles = load_candles(write(with_split(candle_rows, 70.0)))
    with pytest.raises(DataError, match=r"looks like a split; state it with --split"):
        settle_splits(candles, True)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"C.csv": []}, "none of the files given"),
        ({"A.csv": [(pd.Timestamp("2030-01-01T00:00Z"), 7.0)]}, "no split of factor 7"),
        ({"A.csv": [(pd.Timestamp("2022-01-01T03:00Z"), 0.0)]}, "no split of factor 0"),
    ],
)
def test_wrong_statements_are_refused(
    write: Write, candle_rows: list[str], stated: dict[str, list[tuple[pd.Timestamp, float]]], message: str
) -> None:
    paths = [write(candle_rows, "A.csv"), write(candle_rows, "B.csv")]
    with pytest.raises(DataError, match=message):
        load_pair(paths, splits=stated)


def test_a_crash_inside_a_bar_is_no_split(write: Write, candle_rows: list[str]) -> None:
    crash = [*candle_rows[:-1], "2022-01-01T05:00:00Z,103,104,9,10,5", "2022-01-01T06:00:00Z,10,11,9,10,5"]
    assert find_splits(load_candles(write(crash))) == []


def correlation(up: Candles, down: Candles) -> float:
    """Of simple close-to-close returns on shared bars."""
    closes = pd.DataFrame({"a": up.frame["close"], "b": down.frame["close"]}).dropna()
    return float(closes.pct_change().dropna().corr().iloc[0, 1])


@pytest.mark.real_data
@pytest.mark.parametrize(("market", "expected"), [("BTC", -0.958), ("ETH", -0.845), ("BNB", -0.914)])
def test_real_correlations(binance: Path, market: str, expected: float) -> None:
    paths = [binance / f"{market}{side}USDT_1h.csv.gz" for side in ("UP", "DOWN")]
    assert load_pair(paths, adjust_splits=True).findings.correlation == pytest.approx(expected, abs=5e-4)


@pytest.mark.real_data
def test_the_real_split_trap(binance: Path) -> None:
    paths = [binance / "ETHUPUSDT_1h.csv.gz", binance / "ETHDOWNUSDT_1h.csv.gz"]
    with pytest.raises(DataError, match=r"ETHDOWNUSDT_1h\.csv\.gz, row 2313: .*looks like a split"):
        load_pair(paths)
    up, raw = (load_candles(path) for path in paths)
    assert abs(correlation(up, raw)) < 0.1
    assert correlation(up, settle_splits(raw, True)[0]) == pytest.approx(-0.845, abs=5e-4)


@pytest.mark.real_data
def test_real_gaps_are_all_reported(binance: Path) -> None:
    paths = [binance / f"ETH{side}USDT_1h.csv.gz" for side in ("UP", "DOWN", "")]
    findings = load_pair(paths, adjust_splits=True).findings
    assert [file.missing_bars for file in findings.files] == [12, 36, 12]
    assert sum(gap.missing for gap in findings.gaps) == 36
    assert [(lost.before, lost.inside, lost.after) for lost in findings.lost] == [
        (0, 24, 1),
        (0, 0, 1),
        (1, 24, 0),
    ]
    assert findings.common_bars == 23_962


def leveraged(factor: float, volume_factor: float = 1.0, gap: float = 0.0) -> list[Candles]:
    """A token of three times its spot, 100 hourly bars, split at bar 60; the spot jumps by `gap` there."""
    rng = np.random.default_rng(0)
    moves = rng.normal(0, 0.01, 100)
    made = []
    for name, slope, split in (("token.csv", 3.0, factor), ("spot.csv", 1.0, 1.0)):
        jump = np.where(np.arange(100) == 60, slope * gap, 0.0)
        close = 100 * np.exp(np.cumsum(slope * moves + jump))
        opened = close / np.exp(slope * moves)
        unit = np.where(np.arange(100) < 60, split, 1.0)
        volume = np.where(np.arange(100) < 60, 10.0, 10.0 * volume_factor)
        prices = np.stack([opened, np.maximum(opened, close), np.minimum(opened, close), close]) / unit
        frame = pd.DataFrame(
            dict(zip(("open", "high", "low", "close"), prices, strict=True)) | {"volume": volume},
            index=pd.date_range("2022-01-01", periods=100, freq="h", tz="UTC"),
        )
        made.append(Candles(name, frame, pd.Timedelta("1h")))
    return made


@pytest.mark.parametrize("factor", [2.0, 1.5, 1.25, 1 / 2, 1 / 1.5])
def test_a_small_split_is_told_by_the_underlying(factor: float) -> None:
    token, spot = leveraged(factor)
    with pytest.raises(DataError, match=r"token\.csv, row 62: .* beyond its underlying, .* a split; adjust"):
        settle_splits(token, False, spot)
    settled, found = settle_splits(token, True, spot)
    assert [split.factor for split in found] == [pytest.approx(factor)]
    np.testing.assert_allclose(settled.frame["close"], leveraged(1.0)[0].frame["close"], rtol=1e-9)


@pytest.mark.parametrize("gap", [0.1, -0.12])
def test_a_jump_that_the_underlying_made_is_no_split(gap: float) -> None:
    token, spot = leveraged(1.0, gap=gap)
    assert abs(np.log(token.frame["open"].iloc[60] / token.frame["close"].iloc[59])) > np.log(1.3)
    assert find_splits(token, spot) == []
    assert find_jumps(token, spot, []) == []
    # Without the underlying the same bar stays an open question.
    assert len(find_jumps(token, None, [])) == 1


def test_without_an_underlying_a_small_split_is_reported_with_the_volume() -> None:
    token = leveraged(0.5, volume_factor=2.0)[0]
    assert settle_splits(token, False)[1] == []
    (jump,) = find_jumps(token, None, [])
    assert jump.time == pd.Timestamp("2022-01-03T12:00Z")
    assert jump.factor == pytest.approx(0.5)
    assert jump.volume_change == pytest.approx(2.0)


def test_a_bar_that_the_underlying_lacks_is_reported() -> None:
    token, spot = leveraged(2.0)
    hole = Candles("spot.csv", spot.frame.drop(spot.frame.index[59]), spot.interval)
    assert find_splits(token, hole) == []
    assert len(find_jumps(token, hole, [])) == 1


def test_a_user_may_say_that_there_was_no_split() -> None:
    token, spot = leveraged(1.5)
    stated = [(pd.Timestamp("2022-01-03T12:00Z"), 1.0)]
    settled, found = settle_splits(token, False, spot, stated)
    pd.testing.assert_frame_equal(settled.frame, token.frame)
    assert find_jumps(token, None, found) == []


def test_the_underlying_of_a_pair_is_used_and_the_report_names_the_rest(write: Write) -> None:
    token, spot = leveraged(2.0)
    paths = []
    for name, candles in (("A.csv", spot), ("B.csv", token), ("S.csv", spot)):
        table = candles.frame.rename_axis("open_time").reset_index()
        table["open_time"] = table["open_time"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
        paths.append(write(table.to_csv(index=False).splitlines(), name))
    with pytest.raises(DataError, match=r"B\.csv, row 62: from close to open the price moved 2-fold beyond"):
        load_pair(paths)
    assert load_pair(paths, adjust_splits=True).findings.files[1].adjusted_splits[0].value == 2
    file = load_pair(paths[:2]).findings.files[1]
    assert [(jump.time, round(jump.value, 6)) for jump in file.possible_splits] == [
        ("2022-01-03T12:00:00Z", 2.0)
    ]


@pytest.mark.real_data
@pytest.mark.parametrize("market", ["BTC", "ETH", "BNB"])
def test_no_small_split_is_seen_in_the_real_tokens(binance: Path, market: str) -> None:
    paths = [binance / f"{market}{side}USDT_4h.csv.gz" for side in ("UP", "DOWN", "")]
    for files in (paths, paths[:2]):
        found = load_pair(files, adjust_splits=True).findings.files[:2]
        assert [len(file.adjusted_splits) for file in found] == [0, 0 if market == "BTC" else 1]
        assert all(not file.possible_splits for file in found)
