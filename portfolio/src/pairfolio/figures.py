"""Figures of strategies on the bars they traded: one way for backtest, comparison and final test."""

import numpy as np
import pandas as pd

from pairfolio.config import Settings
from pairfolio.data.findings import stamp
from pairfolio.data.pair import Pair
from pairfolio.evaluation.ledger import Ledger, settle
from pairfolio.evaluation.metrics import max_drawdown, measure, sharpe, total_return
from pairfolio.evaluation.regimes import Regime, bars_within
from pairfolio.evaluation.uncertainty import Interval, block_starts, interval, resampled_sharpe
from pairfolio.interval import bars_per_year
from pairfolio.learning.walkforward import Walk, bars_in
from pairfolio.results import RegimeFigures, RegimeResult, SeedResult, StrategyResult, Tested
from pairfolio.strategies.roster import HALF

# A situation with fewer tested bars is left out: its figures would say nothing.
FEWEST_BARS = 30


class Scale:
    """Bars per year and the bootstrap, shared by all figures of a run.

    Args:
        pair: Gives the interval.
        settings: May override the bars per year, and hold the bootstrap's plan.
    """

    def __init__(self, pair: Pair, settings: Settings) -> None:
        self.settings = settings
        self.per_year = settings.bars_per_year or bars_per_year(pair.interval)
        self.block = bars_in(settings.uncertainty.block_days, pair.interval)

    def draws(self, returns: np.ndarray) -> np.ndarray:
        """Bootstrapped Sharpe ratios; series of equal length share their draws."""
        plan = self.settings.uncertainty
        block = min(self.block, len(returns))
        starts = block_starts(len(returns), block, plan.samples, plan.seed)
        return resampled_sharpe(returns, starts, block, self.per_year)

    def sharpe(self, returns: np.ndarray) -> Interval:
        """Sharpe with its interval."""
        level = self.settings.uncertainty.level
        return interval(sharpe(returns, self.per_year), self.draws(returns), level)


def traded_returns(pair: Pair, decisions: range) -> np.ndarray:
    """Returns of A and B after each decision, shape (decisions, 2)."""
    return pair.returns[decisions[0] : decisions[-1] + 1]


def traded_times(pair: Pair, decisions: range) -> pd.DatetimeIndex:
    """Opening of the bar of each decision."""
    return pair.times[decisions[0] : decisions[-1] + 1]


def traded_span(pair: Pair, decisions: range, scale: Scale) -> Tested:
    """The bars that were traded."""
    times = traded_times(pair, decisions)
    return Tested(
        first=stamp(times[0]),
        last=stamp(times[-1]),
        bars=len(times),
        years=len(times) / scale.per_year,
        bars_per_year=scale.per_year,
    )


def strategy_results(
    pair: Pair, decisions: range, ledgers: dict[str, Ledger], names: dict[str, str], scale: Scale
) -> list[StrategyResult]:
    """Figures of every strategy, each set beside half/half on the same bootstrap draws."""
    half = scale.draws(ledgers[HALF].net), sharpe(ledgers[HALF].net, scale.per_year)
    spot = pair.spot_returns
    if spot is not None:
        spot = spot[decisions[0] : decisions[-1] + 1]
    out = []
    for key, ledger in ledgers.items():
        own = scale.sharpe(ledger.net)
        versus = None
        if key != HALF and own.value is not None and half[1] is not None:
            differences = scale.draws(ledger.net) - half[0]
            versus = interval(own.value - half[1], differences, scale.settings.uncertainty.level)
        out.append(
            StrategyResult(
                key=key,
                label=names[key],
                metrics=measure(ledger, scale.per_year),
                sharpe=own,
                versus_half=versus,
                spot_beta=None
                if spot is None
                else float(np.cov(ledger.gross, spot)[0, 1] / np.var(spot, ddof=1)),
            )
        )
    return out


def seed_results(walk: Walk, tested: np.ndarray, scale: Scale) -> list[SeedResult]:
    """Figures of each seed alone."""
    fee = scale.settings.loss.fee
    return [
        SeedResult(seed=seed, metrics=measure(settle(weights, tested, fee), scale.per_year))
        for seed, weights in zip(scale.settings.seeds, walk.weights, strict=True)
    ]


def regime_results(
    pair: Pair, walk: Walk, ledgers: dict[str, Ledger], regimes: list[Regime], scale: Scale
) -> list[RegimeResult]:
    """Figures of every strategy in every market situation that was tested long enough."""
    out = []
    for name, start, end in regimes:
        steps = bars_within(pair.times, start, end)
        tested = steps[(steps >= walk.decisions[0]) & (steps <= walk.decisions[-1])]
        if len(tested) < FEWEST_BARS:
            continue
        part = slice(int(tested[0]) - walk.decisions[0], int(tested[-1]) + 1 - walk.decisions[0])
        out.append(
            RegimeResult(
                name=name,
                first=stamp(pair.times[tested[0]]),
                last=stamp(pair.times[tested[-1] + 1]),
                bars=len(tested),
                whole=len(tested) == len(steps) and bool(pair.times[0] <= start and pair.times[-1] >= end),
                strategies={key: _situation(ledger, part, scale) for key, ledger in ledgers.items()},
            )
        )
    return out


def _situation(ledger: Ledger, part: slice, scale: Scale) -> RegimeFigures:
    net = ledger.net[part]
    return RegimeFigures(
        total_return=total_return(net),
        sharpe=scale.sharpe(net),
        max_drawdown=max_drawdown(net),
        turnover_per_year=float(np.mean(ledger.turnover[part]) * scale.per_year),
    )
