"""A whole run: choose on the earlier span, trade it walking forward, compare, measure the uncertainty."""

import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import NamedTuple

import pandas as pd

from pairfolio.config import Settings
from pairfolio.data.pair import Pair
from pairfolio.evaluation.ledger import Ledger, settle
from pairfolio.evaluation.metrics import measure
from pairfolio.evaluation.regimes import Regime
from pairfolio.evaluation.regimes import choose as choose_regimes
from pairfolio.evaluation.uncertainty import placebo
from pairfolio.figures import (
    Scale,
    regime_results,
    seed_results,
    strategy_results,
    traded_returns,
    traded_span,
    traded_times,
)
from pairfolio.learning.walkforward import Walk
from pairfolio.results import Results
from pairfolio.selection import choose
from pairfolio.strategies.roster import labels, next_open, rules


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
    """Choose, train, trade and compare.

    Args:
        pair: The candles; without those that `settings.final` sets aside.
        settings: Of the whole run.
        regimes: Market situations; by default those of the crypto market, or quarters.
        progress: Called with the networks trained so far and in all.

    Raises:
        SettingsError: If the data are too short.
        DataError: If the two assets move alike.
    """
    settings, choice, walks = choose(pair, settings, progress)
    walk, fee = walks["network"], settings.loss.fee
    tested, times = traded_returns(pair, walk.decisions), traded_times(pair, walk.decisions)
    ledgers = trade(pair, walks, settings)
    scale = Scale(pair, settings)
    later = next_open(pair, walk.decisions, ledgers["network"].weights, fee)
    plan = settings.uncertainty
    results = Results(
        pair=pair.names,
        versions=versions(),
        settings=settings,
        data=pair.findings,
        tested=traded_span(pair, walk.decisions, scale),
        choice=choice,
        strategies=strategy_results(pair, walk.decisions, ledgers, labels(pair, settings), scale),
        seeds={key: seed_results(w, tested, scale) for key, w in walks.items()},
        placebo=placebo(ledgers["network"].weights, tested, fee, scale.per_year, plan.shifts, plan.seed),
        next_open=None if later is None else measure(later, scale.per_year),
        regimes=regime_results(pair, walk, ledgers, regimes or choose_regimes(times), scale),
        folds=walk.records,
        final=None,
    )
    return Run(results, times, ledgers)


def trade(pair: Pair, walks: dict[str, Walk], settings: Settings) -> dict[str, Ledger]:
    """What the mean of each network's seeds earned, and what each rule earned beside it."""
    walk = walks["network"]
    tested = traded_returns(pair, walk.decisions)
    ledgers = {key: settle(w.weights.mean(axis=0), tested, settings.loss.fee) for key, w in walks.items()}
    return ledgers | rules(pair, walk, settings)


def versions() -> dict[str, str]:
    """Of what the figures were made with."""
    packages = ("pairfolio", "torch", "numpy", "pandas", "skfolio")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
