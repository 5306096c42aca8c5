"""The reference table of fixed rules on real hourly candles, to every printed digit."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pairfolio.data.pair import Pair, load_pair
from pairfolio.evaluation.ledger import Ledger, hold, settle
from pairfolio.evaluation.metrics import max_drawdown, sharpe, total_return
from pairfolio.evaluation.regimes import bars_within, crypto_regimes
from pairfolio.learning.loss import moments
from pairfolio.strategies.fixed import bought_once, constant

pytestmark = pytest.mark.real_data
FEE = 0.00075
SPANS = [("2021-04-03", "2022-11-03", 13_884), ("2022-05-01", "2023-12-28", 14_542)]
# Rule: total return %, Sharpe, drawdown % on the first span, then on the second.
TABLE = {
    "spot": ((-66, -0.59, 74), (15, 0.43, 61)),
    "up": ((-98, -0.67, 98), (-62, 0.02, 93)),
    "down": ((-28, 0.74, 95), (-84, -0.28, 96)),
    "half, no fee": ((10, 0.37, 18), (-26, -0.82, 30)),
    "half": ((-3, 0.04, 20), (-32, -1.06, 35)),
    "minimum variance": ((-8, -0.11, 22), (-30, -1.07, 32)),
    "bought once": ((-63, -0.07, 83), (-73, -0.45, 86)),
}
# Situation: total return % of spot, UP, DOWN and (one digit) half/half without fee.
REGIMES = {
    "crash": (-47, -75, 69, 7.6),
    "bull": (117, 307, -91, -7.3),
    "bear": (-60, -92, 421, -7.9),
    "sideways": (11, 6, -45, 5.3),
    "shock": (-23, -42, 71, 7.3),
    "recovery": (84, 155, -84, -24.8),
    "quiet": (-12, -28, 15, 4.5),
}


@pytest.fixture(scope="module")
def bitcoin(binance: Path) -> Pair:
    return load_pair([binance / f"BTC{side}USDT_1h.csv.gz" for side in ("UP", "DOWN", "")])


def ledgers(pair: Pair, steps: np.ndarray) -> dict[str, Ledger]:
    """Each rule of the table; the first table row group has no fee where nothing is rebalanced for one."""
    assert pair.spot_returns is not None
    returns, bars = pair.returns[steps], len(steps)
    least = moments(torch.from_numpy(returns)).minimum_variance_weight
    return {
        "spot": hold(pair.spot_returns[steps], 0.0),
        "up": settle(constant(1.0, bars), returns, 0.0),
        "down": settle(constant(0.0, bars), returns, 0.0),
        "half, no fee": settle(constant(0.5, bars), returns, 0.0),
        "half": settle(constant(0.5, bars), returns, FEE),
        "minimum variance": settle(constant(least, bars), returns, FEE),
        "bought once": settle(bought_once(0.5, returns), returns, FEE),
    }


@pytest.mark.parametrize("span", [0, 1])
def test_fixed_rules_come_back_to_the_printed_digits(bitcoin: Pair, span: int) -> None:
    start, end, count = SPANS[span]
    steps = bars_within(bitcoin.times, pd.Timestamp(start, tz="UTC"), pd.Timestamp(end, tz="UTC"))
    assert len(steps) == count
    for rule, ledger in ledgers(bitcoin, steps).items():
        ratio = sharpe(ledger.net, 8766.0)
        assert ratio is not None
        found = (
            round(100 * total_return(ledger.net)),
            round(ratio, 2),
            round(100 * max_drawdown(ledger.net)),
        )
        assert found == TABLE[rule][span], rule


@pytest.mark.parametrize("name", REGIMES)
def test_regimes_come_back_to_the_printed_digits(bitcoin: Pair, name: str) -> None:
    (_, start, end), *_ = [regime for regime in crypto_regimes() if regime[0] == name]
    found = ledgers(bitcoin, bars_within(bitcoin.times, start, end))
    totals = [100 * total_return(found[rule].net) for rule in ("spot", "up", "down", "half, no fee")]
    assert (*(round(total) for total in totals[:3]), round(totals[3], 1)) == REGIMES[name]
