"""skfolio against the closed forms that two assets have."""

import numpy as np
import pytest

from pairfolio.data.synthetic import synthetic_pair
from pairfolio.strategies.rolling import rolling_weights


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_minimum_variance_equals_its_closed_form(scale: float) -> None:
    returns = scale * synthetic_pair(300).returns * np.array([1.0, 1.4])
    found = rolling_weights(returns, range(200, 230), "minimum_variance", lookback=150, refit=10)
    for place in range(30):
        bar = 200 + place - place % 10
        a, g, _, b = np.cov(returns[bar - 150 : bar].T).ravel()
        assert found[place] == pytest.approx((b - g) / (a + b - 2 * g), abs=1e-4)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_equal_risk_equals_inverse_volatility(scale: float) -> None:
    returns = scale * synthetic_pair(300).returns * np.array([1.0, 1.4])
    found = rolling_weights(returns, range(200, 202), "equal_risk", lookback=150, refit=10)
    a, b = returns[50:200].std(axis=0)
    assert found[0] == found[1] == pytest.approx(b / (a + b), abs=1e-4)


@pytest.mark.parametrize("rule", ["minimum_variance", "equal_risk"])
def test_later_returns_do_not_matter(rule: str) -> None:
    returns = synthetic_pair(300).returns
    changed = returns.copy()
    changed[210:] *= 3
    weights = [rolling_weights(data, range(200, 240), rule, 100, 5) for data in (returns, changed)]  # type: ignore[arg-type]
    assert np.array_equal(weights[0][:15], weights[1][:15])
    assert not np.array_equal(weights[0], weights[1])
