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


def test_one_trial_needs_no_deflation() -> None:
    """With normal returns the probability is Φ(SR·√(n − 1)/√(1 + SR²/2)), SR per bar."""
    returns = noise(20_000, 4, mean=0.0001)
    ratio = float(np.mean(returns) / np.std(returns))
    expected = NormalDist().cdf(ratio * math.sqrt(19_999) / math.sqrt(1 + ratio**2 / 2))
    assert deflated_sharpe(returns, np.array([ratio])) == pytest.approx(expected, abs=2e-3)


def test_more_trials_deflate_more() -> None:
    returns = noise(2000, 5, mean=0.0005)
    few, many = (np.random.default_rng(6).normal(0, 0.02, count) for count in (2, 200))
    alone = deflated_sharpe(returns, np.array([0.05]))
    assert alone > deflated_sharpe(returns, few) > deflated_sharpe(returns, many)
