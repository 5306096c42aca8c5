import math
from statistics import NormalDist

import numpy as np
import pytest

from pairfolio.evaluation.metrics import sharpe
from pairfolio.evaluation.uncertainty import (
    block_starts,
    deflated_sharpe,
    interval,
    placebo,
    resampled_sharpe,
)

PER_YEAR = 365.25


def noise(bars: int, seed: int = 0, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 0.01, bars)


def test_running_sums_equal_samples_laid_out() -> None:
    returns, block = noise(103), 10
    starts = block_starts(103, block, 20, seed=1)
    fast = resampled_sharpe(returns, starts, block, PER_YEAR)
    for row, value in zip(starts, fast, strict=True):
        sample = np.concatenate([returns[np.arange(start, start + block) % 103] for start in row])
        assert sharpe(sample, PER_YEAR) == pytest.approx(value, rel=1e-9)


def test_intervals_cover_the_true_ratio() -> None:
    """Of 100 series with a known Sharpe ratio, about 95 intervals hold it."""
    true = 0.05 * math.sqrt(PER_YEAR)
    held = 0
    for seed in range(100):
        returns = noise(1000, seed, mean=0.0005)
        draws = resampled_sharpe(returns, block_starts(1000, 5, 400, seed), 5, PER_YEAR)
        found = interval(sharpe(returns, PER_YEAR), draws, 0.95)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= true <= found.high
    assert held >= 88


def test_the_error_of_white_noise_is_known() -> None:
    returns = noise(3653)
    draws = resampled_sharpe(returns, block_starts(3653, 5, 1000, 0), 5, PER_YEAR)
    assert interval(0.0, draws, 0.95).error == pytest.approx(1 / math.sqrt(3653 / PER_YEAR), rel=0.15)


def test_undefined_values_have_no_interval() -> None:
    found = interval(None, np.full(10, np.nan), 0.95)
    assert (found.value, found.error, found.low, found.high) == (None, None, None, None)


def test_foresight_is_seen_by_the_placebo_and_chance_is_not() -> None:
    returns = np.column_stack([noise(500, 1), noise(500, 2)])
    knowing = np.where(returns[:, 0] > returns[:, 1], 0.8, 0.2)
    seen = placebo(knowing, returns, 0.0, PER_YEAR, shifts=199, seed=0)
    assert seen.p_value == pytest.approx(1 / 200)
    guessing = np.random.default_rng(3).uniform(0.2, 0.8, 500)
    p_value = placebo(guessing, returns, 0.0, PER_YEAR, shifts=199, seed=0).p_value
    assert p_value is not None
    assert p_value > 0.05


def written_out(ratio: float, bars: int, skew: float, kurtosis: float, spread: float, trials: int) -> float:
    """The deflated Sharpe ratio as Bailey and López de Prado (2014) print it, eq. 1 and 2, per bar."""
    normal, luck = NormalDist(), 0.0
    if trials > 1:
        first, second = normal.inv_cdf(1 - 1 / trials), normal.inv_cdf(1 - 1 / (trials * math.e))
        luck = spread * ((1 - 0.5772156649015329) * first + 0.5772156649015329 * second)
    error = math.sqrt(1 - skew * ratio + (kurtosis - 1) / 4 * ratio**2)
    return normal.cdf((ratio - luck) * math.sqrt(bars - 1) / error)


def test_the_formula_gives_the_example_of_its_paper() -> None:
    """Sharpe 2.5 a year, the best of 100 trials of variance ½ a year; 1250 days, skew −3, kurtosis 10."""
    found = written_out(2.5 / math.sqrt(250), 1250, -3, 10, math.sqrt(0.5 / 250), 100)
    assert found == pytest.approx(0.9004, abs=2e-4)


@pytest.mark.parametrize("trials", [1, 2, 12, 200])
def test_the_library_equals_the_formula(trials: int) -> None:
    rng = np.random.default_rng(trials)
    returns = rng.standard_t(4, 1500) * 0.01 + 0.0004
    ratios = rng.normal(0.01, 0.02, trials)
    mean, spread = float(np.mean(returns)), float(np.std(returns, ddof=1))
    centered = (returns - mean) / np.std(returns)
    expected = written_out(
        mean / spread,
        1500,
        float(np.mean(centered**3)),
        float(np.mean(centered**4)),
        float(np.std(ratios, ddof=1)) if trials > 1 else 0.0,
        trials,
    )
    assert 0.001 < expected < 0.999
    assert deflated_sharpe(returns, ratios) == pytest.approx(expected, abs=2e-3)


def test_a_series_that_does_not_move_has_no_deflated_ratio() -> None:
    assert deflated_sharpe(np.zeros(50), np.array([0.1])) is None
    assert deflated_sharpe(noise(50), np.array([])) is None
