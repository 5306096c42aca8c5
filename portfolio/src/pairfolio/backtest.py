"""A whole run: train walking forward, trade the tested bars, compare, measure the uncertainty."""

import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
import pandas as pd

from pairfolio.config import Settings, override
from pairfolio.data.findings import stamp
from pairfolio.data.pair import Pair
from pairfolio.evaluation.ledger import Ledger, settle
from pairfolio.evaluation.metrics import max_drawdown, measure, sharpe, total_return
from pairfolio.evaluation.regimes import Regime, bars_within, choose
from pairfolio.evaluation.uncertainty import Interval, block_starts, interval, placebo, resampled_sharpe
from pairfolio.interval import bars_per_year
from pairfolio.learning.walkforward import Walk, bars_in, walk_forward
from pairfolio.results import RegimeFigures, RegimeResult, Results, SeedResult, StrategyResult, Tested
from pairfolio.strategies.roster import HALF, labels, next_open, rules

# A situation with fewer tested bars is left out: its figures would say nothing.
FEWEST_BARS = 30


class Run(NamedTuple):
    """Results, and the series behind them.

    Attributes:
        results: All figures.
        times: Opening of each tested bar's decision.
        ledgers: Each strategy by key.
    """

    results: Results
    times: pd.DatetimeIndex
    ledgers: dict[str, Ledger]


def run_backtest(
    pair: Pair,
    settings: Settings,
    *,
    regimes: list[Regime] | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Run:
    """Train, trade and compare.

    Args:
        pair: The candles.
        settings: Of the whole run.
        regimes: Market situations; by default those of the crypto market, or quarters.
        progress: Called with the networks trained so far and in all.

    Raises:
        SettingsError: If the data are too short.
        DataError: If the two assets move alike.
    """
    walks = _walks(pair, settings, progress)
    walk = walks["network"]
    tested = pair.returns[walk.decisions[0] : walk.decisions[-1] + 1]
    ledgers = {key: settle(w.weights.mean(axis=0), tested, settings.loss.fee) for key, w in walks.items()}
    ledgers |= rules(pair, walk, settings)
    scale = Scale(pair, settings)
    later = next_open(pair, walk.decisions, ledgers["network"].weights, settings.loss.fee)
    times = pair.times[walk.decisions[0] : walk.decisions[-1] + 1]
    results = Results(
        pair=pair.names,
        versions=_versions(),
        settings=settings,
        data=pair.findings,
        tested=Tested(
            first=stamp(times[0]),
            last=stamp(times[-1]),
            bars=len(times),
            years=len(times) / scale.per_year,
            bars_per_year=scale.per_year,
        ),
        strategies=_strategies(pair, walk, ledgers, scale),
        seeds={key: _seeds(w, tested, scale) for key, w in walks.items()},
        placebo=placebo(
            ledgers["network"].weights,
            tested,
            settings.loss.fee,
            scale.per_year,
            settings.uncertainty.shifts,
            settings.uncertainty.seed,
        ),
        next_open=None if later is None else measure(later, scale.per_year),
        regimes=regime_results(pair, walk, ledgers, regimes or choose(times), scale),
        folds=walk.records,
    )
    return Run(results, times, ledgers)


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


def _walks(pair: Pair, settings: Settings, progress: Callable[[int, int], None]) -> dict[str, Walk]:
    """The network asked for, and the same network without the term."""
    plain = settings.loss.term == "none" or settings.loss.strength == 0
    rounds = 1 if plain else 2
    walks = {"network": walk_forward(pair, settings, lambda done, of: progress(done, rounds * of))}
    if not plain:
        bare = override(settings, {"loss.term": "none"})
        walks["network_lambda0"] = walk_forward(pair, bare, lambda done, of: progress(of + done, 2 * of))
    return walks


def _strategies(pair: Pair, walk: Walk, ledgers: dict[str, Ledger], scale: Scale) -> list[StrategyResult]:
    names = labels(pair, scale.settings)
    half = scale.draws(ledgers[HALF].net), sharpe(ledgers[HALF].net, scale.per_year)
    spot = pair.spot_returns
    if spot is not None:
        spot = spot[walk.decisions[0] : walk.decisions[-1] + 1]
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


def _seeds(walk: Walk, tested: np.ndarray, scale: Scale) -> list[SeedResult]:
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


def _versions() -> dict[str, str]:
    packages = ("pairfolio", "torch", "numpy", "pandas", "skfolio")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
