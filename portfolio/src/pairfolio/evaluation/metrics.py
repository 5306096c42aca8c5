"""Figures of a return series, annualized by the bars in its own year; the risk-free rate is taken as 0."""

import math

import numpy as np
from pydantic import BaseModel

from pairfolio.evaluation.ledger import Ledger

# Weights beyond these are counted as a corner.
CORNERS = (0.1, 0.9)


class Metrics(BaseModel):
    """Figures of one strategy; None where a figure is not defined."""

    total_return: float
    annual_return: float
    volatility: float
    sharpe: float | None
    sortino: float | None
    max_drawdown: float
    calmar: float | None
    turnover_per_bar: float
    turnover_per_year: float
    cost_drag: float
    mean_weight: float | None
    weight_spread: float | None
    corner_share: float | None


def total_return(returns: np.ndarray) -> float:
    """V_n/V_0 − 1."""
    return float(np.prod(1 + returns) - 1)


def annual_return(returns: np.ndarray, per_year: float) -> float:
    """(V_n/V_0)^(P/n) − 1; −1 once the wealth is gone."""
    growth = 1 + total_return(returns)
    if growth <= 0:
        return -1.0
    power = math.log(growth) * per_year / len(returns)
    return math.expm1(power) if power < 700 else math.inf


def volatility(returns: np.ndarray, per_year: float) -> float:
    """sd(r, divisor n − 1)·√P."""
    return float(np.std(returns, ddof=1) * math.sqrt(per_year))


def sharpe(returns: np.ndarray, per_year: float) -> float | None:
    """mean(r)/sd(r)·√P."""
    return _ratio(float(np.mean(returns)), float(np.std(returns, ddof=1)), per_year)


def sortino(returns: np.ndarray, per_year: float) -> float | None:
    """mean(r)/√mean(min(r, 0)²)·√P, all bars in the mean."""
    downside = math.sqrt(float(np.mean(np.minimum(returns, 0) ** 2)))
    return _ratio(float(np.mean(returns)), downside, per_year)


def _ratio(mean: float, risk: float, per_year: float) -> float | None:
    # A constant series leaves a rounding error for its risk, which must not pass for a huge ratio.
    return None if risk <= 1e-12 * max(abs(mean), 1e-12) else mean / risk * math.sqrt(per_year)


def drawdowns(returns: np.ndarray) -> np.ndarray:
    """1 − V/running maximum after each bar, the starting value counted as a maximum."""
    wealth = np.cumprod(1 + returns)
    return np.asarray(1 - wealth / np.maximum(np.maximum.accumulate(wealth), 1.0))


def max_drawdown(returns: np.ndarray) -> float:
    """The largest loss from a peak."""
    return float(np.max(drawdowns(returns)))


def measure(ledger: Ledger, per_year: float) -> Metrics:
    """All figures of a strategy, net of costs."""
    net, weights = ledger.net, ledger.weights
    yearly, worst = annual_return(net, per_year), max_drawdown(net)
    allocated = not np.isnan(weights).any()
    return Metrics(
        total_return=total_return(net),
        annual_return=yearly,
        volatility=volatility(net, per_year),
        sharpe=sharpe(net, per_year),
        sortino=sortino(net, per_year),
        max_drawdown=worst,
        calmar=yearly / worst if worst > 0 else None,
        turnover_per_bar=float(np.mean(ledger.turnover)),
        turnover_per_year=float(np.mean(ledger.turnover) * per_year),
        cost_drag=annual_return(ledger.gross, per_year) - yearly,
        mean_weight=float(np.mean(weights)) if allocated else None,
        weight_spread=float(np.std(weights)) if allocated else None,
        corner_share=float(np.mean((weights < CORNERS[0]) | (weights > CORNERS[1]))) if allocated else None,
    )
