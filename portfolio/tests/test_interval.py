import math

import numpy as np
import pandas as pd
import pytest

from pairfolio.errors import SettingsError
from pairfolio.evaluation.metrics import annual_return, sharpe, sortino, volatility
from pairfolio.interval import bars_per_year, interval_name, parse_interval

# Interval, bars in 365.25 days, and √(P/2), the Sharpe ratio of returns 0.02 and 0 (mean over sd is 1/√2).
GOLDEN = [
    ("1m", 525960.0, 512.8157563881984),
    ("15m", 35064.0, 132.4084589442835),
    ("1h", 8766.0, 66.20422947214173),
    ("4h", 2191.5, 33.10211473607087),
    ("1d", 365.25, 13.513881751739579),
]


@pytest.mark.parametrize(("name", "bars", "ratio"), GOLDEN)
def test_annualization_knows_the_interval(name: str, bars: float, ratio: float) -> None:
    per_year = bars_per_year(parse_interval(name))
    returns = np.array([0.02, 0.0])
    assert per_year == bars
    assert sharpe(returns, per_year) == pytest.approx(ratio, rel=1e-12)
    assert volatility(returns, per_year) == pytest.approx(0.01 * math.sqrt(2 * bars), rel=1e-12)
    down = np.array([0.02, -0.01])
    assert sortino(down, per_year) == pytest.approx(0.005 / math.sqrt(0.00005) * math.sqrt(bars), rel=1e-12)


@pytest.mark.parametrize(("name", "bars", "ratio"), GOLDEN)
def test_doubling_in_four_years_is_the_same_at_every_interval(name: str, bars: float, ratio: float) -> None:
    per_year = bars_per_year(parse_interval(name))
    steps = round(4 * bars)
    returns = np.full(steps, 2 ** (1 / steps) - 1)
    assert annual_return(returns, per_year) == pytest.approx(2**0.25 - 1, rel=1e-6)


@pytest.mark.parametrize("text", ["1m", "15m", "1h", "4h", "1d", "30s"])
def test_names_come_back(text: str) -> None:
    assert interval_name(parse_interval(text)) == text


@pytest.mark.parametrize("text", ["", "h", "0h", "-1h", "4", "1.5h", "2w"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="not understood"):
        parse_interval(text)


def test_no_year_holds_bars_without_length() -> None:
    with pytest.raises(SettingsError, match="not positive"):
        bars_per_year(pd.Timedelta(0))
