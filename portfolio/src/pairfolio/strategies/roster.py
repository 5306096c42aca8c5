"""All rules printed beside the network, on the bars it was tested on."""

import numpy as np

from pairfolio.config import Settings
from pairfolio.data.pair import Pair
from pairfolio.evaluation.ledger import Ledger, hold, settle
from pairfolio.learning.walkforward import Walk, bars_in
from pairfolio.strategies.fixed import bought_once, constant
from pairfolio.strategies.rolling import rolling_weights

HALF = "half_half"


def rules(pair: Pair, walk: Walk, settings: Settings) -> dict[str, Ledger]:
    """Each rule by key; none sees a bar before it is traded."""
    returns = pair.returns
    tested = returns[walk.decisions[0] : walk.decisions[-1] + 1]
    bars, fee = len(tested), settings.loss.fee
    lookback = bars_in(settings.rolling.lookback_days, pair.interval)
    refit = bars_in(settings.rolling.refit_days, pair.interval)
    weights = {
        HALF: constant(0.5, bars),
        "static_minimum_variance": constant(walk.static, bars),
        "rolling_minimum_variance": rolling_weights(
            returns, walk.decisions, "minimum_variance", lookback, refit
        ),
        "rolling_equal_risk": rolling_weights(returns, walk.decisions, "equal_risk", lookback, refit),
        "bought_once": bought_once(0.5, tested),
        "hold_a": constant(1.0, bars),
        "hold_b": constant(0.0, bars),
    }
    ledgers = {key: settle(weight, tested, fee) for key, weight in weights.items()}
    if pair.spot_returns is not None:
        ledgers["spot"] = hold(pair.spot_returns[walk.decisions[0] : walk.decisions[-1] + 1], fee)
    return ledgers


def labels(pair: Pair, settings: Settings) -> dict[str, str]:
    """How each key is written in tables."""
    term, strength = settings.loss.term, settings.loss.strength
    return {
        "network": f"network, {term} λ={strength:g}" if term != "none" else "network, no term",
        "network_lambda0": "network, λ=0",
        HALF: "half/half each bar",
        "static_minimum_variance": "minimum variance, static",
        "rolling_minimum_variance": "minimum variance, rolling",
        "rolling_equal_risk": "equal risk, rolling",
        "bought_once": "half/half bought once",
        "hold_a": f"{pair.names[0]} held",
        "hold_b": f"{pair.names[1]} held",
        "spot": "underlying held",
    }


def next_open(pair: Pair, decisions: range, weights: np.ndarray, fee: float) -> Ledger | None:
    """The same weights filled at the open after the decision, and held from open to open."""
    opens = np.column_stack([frame["open"].to_numpy() for frame in pair.frames[:2]])
    returns = opens[2:] / opens[1:-1] - 1
    # The bar after the last decision has no open after it, so the last weight earns nothing here.
    usable = min(len(decisions), len(returns) - decisions[0])
    if usable < 2:
        return None
    return settle(weights[:usable], returns[decisions[0] : decisions[0] + usable], fee)
