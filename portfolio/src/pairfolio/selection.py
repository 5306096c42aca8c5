"""The choice of network and strength on the earlier span: all trials walk forward, the best net Sharpe wins.

How good the best of several trials looks by luck alone is taken off by the deflated Sharpe ratio, so the
number of trials belongs to every figure of the winner.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pairfolio.config import Settings, override
from pairfolio.data.pair import Pair
from pairfolio.evaluation.ledger import settle
from pairfolio.evaluation.metrics import sharpe
from pairfolio.evaluation.uncertainty import deflated_sharpe
from pairfolio.figures import Scale, traded_returns
from pairfolio.learning.walkforward import Walk, walk_forward
from pairfolio.results import Choice, Trial


class Chosen(NamedTuple):
    """What the earlier span led to.

    Attributes:
        settings: With the network and strength chosen.
        choice: The trials, for the report.
        walks: `network`, and `network_lambda0` where the term acts.
    """

    settings: Settings
    choice: Choice
    walks: dict[str, Walk]


def candidates(settings: Settings) -> list[Settings]:
    """Every trial in order; the settings themselves where nothing is to be chosen."""
    grid = settings.selection
    if grid is None:
        return [settings]
    return [
        override(settings, {"network.kind": network, "loss.strength": strength})
        for network in grid.networks
        for strength in grid.strengths
    ]


def choose(pair: Pair, settings: Settings, progress: Callable[[int, int], None]) -> Chosen:
    """Walk every trial forward and keep the one with the best net Sharpe; the first of equals.

    Args:
        pair: The candles of the earlier span; those set aside are not among them.
        settings: Of the run.
        progress: Called with the networks trained so far and in all.

    Raises:
        SettingsError: If the data are too short.
    """
    tried = candidates(settings)
    rounds = len(tried) + (not any(_plain(trial) for trial in tried))
    walks = [walk_forward(pair, trial, _part(progress, place, rounds)) for place, trial in enumerate(tried)]
    nets = [_net(pair, walk, settings.loss.fee) for walk in walks]
    ratios = np.array([np.mean(net) / np.std(net, ddof=1) if np.std(net) > 0 else -np.inf for net in nets])
    best = int(np.argmax(ratios))
    chosen = {"network": walks[best]}
    if not _plain(tried[best]):
        chosen["network_lambda0"] = _without_term(
            pair, tried, walks, best, _part(progress, rounds - 1, rounds)
        )
    per_year = Scale(pair, settings).per_year
    choice = Choice(
        trials=[
            Trial(network=trial.network.kind, strength=trial.loss.strength, sharpe=sharpe(net, per_year))
            for trial, net in zip(tried, nets, strict=True)
        ],
        chosen=best,
        deflated=deflated_sharpe(nets[best], ratios[np.isfinite(ratios)]),
    )
    return Chosen(tried[best], choice, chosen)


def _plain(settings: Settings) -> bool:
    return settings.loss.term == "none" or settings.loss.strength == 0


def _net(pair: Pair, walk: Walk, fee: float) -> np.ndarray:
    return settle(walk.weights.mean(axis=0), traded_returns(pair, walk.decisions), fee).net


def _part(progress: Callable[[int, int], None], place: int, rounds: int) -> Callable[[int, int], None]:
    """Count one of several walks of equal length."""
    return lambda done, of: progress(place * of + done, rounds * of)


def _without_term(
    pair: Pair, tried: list[Settings], walks: list[Walk], best: int, progress: Callable[[int, int], None]
) -> Walk:
    """The chosen network without the term: taken from the trials, or trained."""
    for trial, walk in zip(tried, walks, strict=True):
        if trial.network == tried[best].network and _plain(trial):
            return walk
    return walk_forward(pair, override(tried[best], {"loss.term": "none", "selection": None}), progress)
