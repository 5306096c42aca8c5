"""What the term does: every variant on one pair, five seeds, walking forward over 4h bars.

    python experiments/term.py BTC stopped    writes experiments/stopped-BTC.json
    python experiments/term.py BTC full       writes experiments/full-BTC.json
    python experiments/term.py BTC hourly     writes experiments/hourly-BTC.json

`stopped` is the package as it comes: LSTM, the epoch chosen on the validation block. `full` trains an MLP for
all epochs, so that the term meets a network that has left its start. `hourly` is the same on 1h
bars, which begin in April 2021. All other settings are the defaults; none was chosen by these results.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from data import hourly_pair, long_pair
from pairfolio.config import Settings, override
from pairfolio.data.pair import Pair
from pairfolio.evaluation.ledger import Ledger, settle
from pairfolio.evaluation.metrics import measure, sharpe
from pairfolio.evaluation.regimes import crypto_regimes
from pairfolio.evaluation.uncertainty import deflated_sharpe, interval, placebo
from pairfolio.figures import Scale, regime_results
from pairfolio.learning.walkforward import Walk, walk_forward
from pairfolio.results import RegimeResult
from pairfolio.strategies.roster import HALF, rules

Variant = tuple[str, float]
STOPPED: dict[str, Variant] = {
    "no term": ("none", 0.0),
    "proximity 0.3": ("proximity", 0.3),
    "proximity 1": ("proximity", 1.0),
    "proximity 3": ("proximity", 3.0),
    "bias 3": ("bias", 3.0),
}
FULL = STOPPED | {"proximity 0.03": ("proximity", 0.03), "proximity 0.1": ("proximity", 0.1)}
ENDS: dict[str, Variant] = {"no term": ("none", 0.0), "proximity 3": ("proximity", 3.0)}
ALL_EPOCHS: dict[str, object] = {"network.kind": "mlp", "training.early_stop": False}
DESIGNS: dict[str, tuple[dict[str, Variant], dict[str, object]]] = {
    "stopped": (STOPPED, {}),
    "full": (FULL, ALL_EPOCHS),
    "hourly": (ENDS, ALL_EPOCHS),
}
SEEDS = (0, 1, 2, 3, 4)


def main(market: str, design: str) -> dict[str, Any]:
    """Run all variants of one market."""
    variants, changes = DESIGNS[design]
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    base = override(Settings(), {"seeds": SEEDS, **changes})
    pair = hourly_pair(market) if design == "hourly" else long_pair(market)
    scale = Scale(pair, base)
    walks: dict[str, Walk] = {}
    for name, (term, strength) in variants.items():
        walks[name] = walk_forward(pair, override(base, {"loss.term": term, "loss.strength": strength}))
        print(market, name, "done", file=sys.stderr, flush=True)
    decisions = next(iter(walks.values())).decisions
    tested = pair.returns[decisions[0] : decisions[-1] + 1]
    fee = base.loss.fee
    ledgers = {name: settle(walk.weights.mean(axis=0), tested, fee) for name, walk in walks.items()}
    ledgers |= rules(pair, next(iter(walks.values())), base)
    alone = {name: [settle(row, tested, fee) for row in walk.weights] for name, walk in walks.items()}
    trials = np.array([np.mean(ledgers[name].net) / np.std(ledgers[name].net) for name in walks])
    return {
        "market": market,
        "design": design,
        "settings": base.model_dump(),
        "first": str(pair.times[decisions[0]]),
        "last": str(pair.times[decisions[-1]]),
        "bars": len(decisions),
        "strategies": {name: _whole(ledger, ledgers, scale) for name, ledger in ledgers.items()},
        "seeds": {name: _seeds(ones, alone["no term"], scale) for name, ones in alone.items()},
        "placebo": {
            name: placebo(ledgers[name].weights, tested, fee, scale.per_year, 200, 0).model_dump()
            for name in walks
        },
        "deflated": {name: deflated_sharpe(ledgers[name].net, trials) for name in walks},
        "epoch_zero": {
            name: float(np.mean([r.epoch == 0 for r in walk.records])) for name, walk in walks.items()
        },
        "regimes": [
            result.model_dump() | {"seeds": _in_regime(result, alone, pair, decisions, scale)}
            for result in regime_results(pair, next(iter(walks.values())), ledgers, crypto_regimes(), scale)
        ],
    }


def _whole(ledger: Ledger, ledgers: dict[str, Ledger], scale: Scale) -> dict[str, Any]:
    """Figures of a strategy, and its differences to half/half and to the network without the term."""
    out: dict[str, Any] = {"metrics": measure(ledger, scale.per_year).model_dump()}
    out["sharpe"] = scale.sharpe(ledger.net).model_dump()
    for key in (HALF, "no term"):
        other = ledgers[key]
        if other is not ledger:
            value = (sharpe(ledger.net, scale.per_year) or 0.0) - (sharpe(other.net, scale.per_year) or 0.0)
            draws = scale.draws(ledger.net) - scale.draws(other.net)
            out[f"less {key}"] = interval(value, draws, scale.settings.uncertainty.level).model_dump()
    return out


def _seeds(ones: list[Ledger], bare: list[Ledger], scale: Scale) -> dict[str, Any]:
    """Each figure over seeds, and its change from the same seed's network without the term."""
    own = [measure(one, scale.per_year).model_dump() for one in ones]
    base = [measure(one, scale.per_year).model_dump() for one in bare]
    keys = ("sharpe", "max_drawdown", "turnover_per_year", "weight_spread", "total_return", "mean_weight")
    return {key: _spread([one[key] for one in own], [one[key] for one in base]) for key in keys}


def _in_regime(
    result: RegimeResult, alone: dict[str, list[Ledger]], pair: Pair, decisions: range, scale: Scale
) -> dict[str, Any]:
    """The same inside one market situation."""
    first = int(pair.times.get_loc(pd.Timestamp(result.first))) - decisions[0]
    part = slice(first, first + result.bars)
    cut = {name: [Ledger(*(field[part] for field in one)) for one in ones] for name, ones in alone.items()}
    return {name: _seeds(ones, cut["no term"], scale) for name, ones in cut.items()}


def _spread(values: list[float], base: list[float]) -> dict[str, Any]:
    changes = np.array(values) - np.array(base)
    root = np.sqrt(len(values))
    return {
        "mean": float(np.mean(values)),
        "error": float(np.std(values, ddof=1) / root),
        "change": float(np.mean(changes)),
        "change_error": float(np.std(changes, ddof=1) / root),
        "values": values,
    }


if __name__ == "__main__":
    found = main(sys.argv[1].upper(), sys.argv[2])
    path = Path(__file__).parent / f"{found['design']}-{found['market']}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
