"""Whether a network's gain survives a slower fill: at the close, at the next open, one bar late.

    python experiments/fill.py BNB            writes experiments/fill-BNB.json

The networks are those of `term.py BNB full`. A gain that only a fill at the
close shows may come from stale prices.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from data import long_pair
from pairfolio.config import Settings, override
from pairfolio.evaluation.ledger import Ledger, settle
from pairfolio.evaluation.metrics import total_return
from pairfolio.figures import Scale
from pairfolio.learning.walkforward import walk_forward
from pairfolio.strategies.roster import next_open
from term import ALL_EPOCHS, ENDS, SEEDS


def main(market: str) -> dict[str, Any]:
    """Each variant of one market under each fill."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    base = override(Settings(), {"seeds": SEEDS, **ALL_EPOCHS})
    pair, fee = long_pair(market), base.loss.fee
    scale = Scale(pair, base)
    found: dict[str, Any] = {"market": market, "fills": {}}
    for name, (term, strength) in ENDS.items():
        walk = walk_forward(pair, override(base, {"loss.term": term, "loss.strength": strength}))
        weights = walk.weights.mean(axis=0)
        tested = pair.returns[walk.decisions[0] : walk.decisions[-1] + 1]
        late = next_open(pair, walk.decisions, weights, fee)
        assert late is not None
        found["fills"][name] = {
            "close": _figures(settle(weights, tested, fee), scale),
            "next open": _figures(late, scale),
            "one bar late": _figures(settle(weights[:-1], tested[1:], fee), scale),
        }
    return found


def _figures(ledger: Ledger, scale: Scale) -> dict[str, Any]:
    return {"total_return": total_return(ledger.net), "sharpe": scale.sharpe(ledger.net).model_dump()}


if __name__ == "__main__":
    result = main(sys.argv[1].upper())
    path = Path(__file__).parent / f"fill-{result['market']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
