"""How far a Sharpe ratio can be trusted: block bootstrap, weights at wrong times, number of trials."""

import math

import numpy as np
from pydantic import BaseModel

from pairfolio.evaluation.ledger import settle
from pairfolio.evaluation.metrics import sharpe


class Interval(BaseModel):
    """A value with its standard error and the bounds of a percentile interval."""

    value: float | None
    error: float | None
    low: float | None
    high: float | None
    level: float


class Placebo(BaseModel):
    """The same weights shifted in time: equal turnover and tilt, no knowledge of when.

    Attributes:
        mean: Mean Sharpe of the shifted weights.
        p_value: Share of them that do as well as the true order, with one added to both counts.
    """

    mean: float | None
    p_value: float | None
    shifts: int


def block_starts(bars: int, block: int, samples: int, seed: int) -> np.ndarray:
    """Starts of circular blocks, shape (samples, blocks); one draw serves all strategies of a comparison."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, bars, size=(samples, math.ceil(bars / block)))


def resampled_sharpe(returns: np.ndarray, starts: np.ndarray, block: int, per_year: float) -> np.ndarray:
    """Sharpe ratio of each bootstrap sample, from running sums over the series laid twice end to end."""
    block = min(block, len(returns))
    twice = np.concatenate([returns, returns])
    sums = np.concatenate([[0.0], np.cumsum(twice)])
    squares = np.concatenate([[0.0], np.cumsum(twice**2)])
    count = starts.shape[1] * block
    mean = (sums[starts + block] - sums[starts]).sum(axis=1) / count
    power = (squares[starts + block] - squares[starts]).sum(axis=1) / count
    spread = np.sqrt(np.maximum(power - mean**2, 0) * count / (count - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(spread > 1e-12, mean / spread, np.nan) * math.sqrt(per_year))


def interval(value: float | None, draws: np.ndarray, level: float) -> Interval:
    """Percentile interval of bootstrap draws."""
    draws = draws[np.isfinite(draws)]
    if value is None or len(draws) < 2:
        return Interval(value=value, error=None, low=None, high=None, level=level)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(
        value=value, error=float(np.std(draws, ddof=1)), low=float(low), high=float(high), level=level
    )


def placebo(
    weights: np.ndarray, returns: np.ndarray, fee: float, per_year: float, shifts: int, seed: int
) -> Placebo:
    """Compare the net Sharpe with that of the same weights at wrong times."""
    true = sharpe(settle(weights, returns, fee).net, per_year)
    rng = np.random.default_rng(seed)
    offsets = rng.integers(1, len(weights), size=shifts)
    moved = [sharpe(settle(np.roll(weights, int(offset)), returns, fee).net, per_year) for offset in offsets]
    values = np.array([value for value in moved if value is not None])
    if true is None or not len(values):
        return Placebo(mean=None, p_value=None, shifts=shifts)
    as_good = int(np.sum(values >= true))
    return Placebo(mean=float(np.mean(values)), p_value=(as_good + 1) / (len(values) + 1), shifts=shifts)


def deflated_sharpe(returns: np.ndarray, trials: np.ndarray) -> float | None:
    """Probability that the true Sharpe is above what the best of so many trials shows by luck.

    Computed by skfolio; None where it is not defined. Trials that resemble each other count as independent,
    which deflates too much rather than too little.

    Source: Bailey and López de Prado (2014), The Deflated Sharpe Ratio, eq. 1 and 2.

    Args:
        returns: Net returns of the trial chosen, per bar.
        trials: Sharpe ratios per bar of all trials, the chosen one among them.
    """
    from skfolio.measures import deflated_sharpe_ratio

    if not len(trials):
        return None
    value = float(deflated_sharpe_ratio(returns, trials))
    return value if math.isfinite(value) else None
