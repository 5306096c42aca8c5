"""Against formulas written out plainly and against empyrical on the same series."""

import math
import statistics

import empyrical
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairfolio.data.synthetic import synthetic_pair
from pairfolio.evaluation.ledger import hold, settle
from pairfolio.evaluation.metrics import (
    annual_return,
    drawdowns,
    max_drawdown,
    measure,
    sharpe,
    sortino,
)

PER_YEAR = 2191.5
series = st.lists(st.floats(-0.4, 0.5).map(lambda value: round(value, 4)), min_size=3, max_size=60)


def plain_drawdown(returns: list[float]) -> float:
    """The largest loss over all pairs of a peak and a later value."""
    wealth = [1.0]
    for value in returns:
        wealth.append(wealth[-1] * (1 + value))
    return max(1 - low / high for i, high in enumerate(wealth) for low in wealth[i:])


@given(series)
@settings(max_examples=100, deadline=None)
def test_against_plain_formulas(values: list[float]) -> None:
    returns = np.array(values)
    mean = statistics.fmean(values)
    assert max_drawdown(returns) == pytest.approx(plain_drawdown(values), abs=1e-12)
    if len(set(values)) > 1:
        ratio = mean / statistics.stdev(values) * math.sqrt(PER_YEAR)
        assert sharpe(returns, PER_YEAR) == pytest.approx(ratio, rel=1e-6, abs=1e-6)
    downside = math.sqrt(sum(value**2 for value in values if value < 0) / len(values))
    if downside > 0:
        ratio = mean / downside * math.sqrt(PER_YEAR)
        assert sortino(returns, PER_YEAR) == pytest.approx(ratio, rel=1e-9, abs=1e-9)
    else:
        assert sortino(returns, PER_YEAR) is None


@pytest.mark.parametrize("column", [0, 1])
def test_against_empyrical(column: int) -> None:
    returns = synthetic_pair(2000).returns[:, column]
    table = pd.Series(returns)
    year = {"annualization": PER_YEAR}
    own = measure(settle(np.full(2000 - 1, 1.0 - column), synthetic_pair(2000).returns, 0.0), PER_YEAR)
    theirs = {
        "sharpe": empyrical.sharpe_ratio(table, **year),
        "sortino": empyrical.sortino_ratio(table, **year),
        "max_drawdown": -empyrical.max_drawdown(table),
        "volatility": empyrical.annual_volatility(table, **year),
        "annual_return": empyrical.annual_return(table, **year),
        "calmar": empyrical.calmar_ratio(table, **year),
        "total_return": empyrical.cum_returns_final(table),
    }
    for name, value in theirs.items():
        assert getattr(own, name) == pytest.approx(value, rel=1e-10), name


def test_the_starting_value_is_a_peak() -> None:
    np.testing.assert_allclose(drawdowns(np.array([-0.2, 0.1, 0.3])), [0.2, 0.12, 0.0], atol=1e-12)


def test_undefined_ratios_are_none() -> None:
    assert sharpe(np.zeros(5), PER_YEAR) is None
    assert sharpe(np.full(5, 0.001), PER_YEAR) is None
    assert sortino(np.full(5, 0.001), PER_YEAR) is None


def test_lost_wealth_is_lost() -> None:
    assert annual_return(np.array([0.1, -1.0, 0.5]), PER_YEAR) == -1.0


def test_a_mean_can_rise_while_wealth_falls() -> None:
    """Both are printed, since the Sharpe ratio alone would hide the loss."""
    returns = np.array([1.0, -0.6] * 10)
    found = measure(hold(returns, 0.0), 365.25)
    assert found.sharpe is not None
    assert found.sharpe > 0
    assert found.total_return < -0.8
    assert found.mean_weight is None


def test_weights_are_described() -> None:
    returns = np.zeros((4, 2))
    found = measure(settle(np.array([0.05, 0.5, 0.95, 0.5]), returns, 0.01), 10.0)
    assert found.mean_weight == pytest.approx(0.5)
    assert found.weight_spread == pytest.approx(math.sqrt(2 * 0.45**2 / 4))
    assert found.corner_share == 0.5
    assert found.turnover_per_bar == pytest.approx((1 + 3 * 0.9) / 4)
    assert found.turnover_per_year == pytest.approx(10 * found.turnover_per_bar)
    assert found.cost_drag == pytest.approx(1 - (1 + found.total_return) ** (10 / 4))
