import math

import numpy as np
import pytest

from pairfolio.backtest import Run, run_backtest
from pairfolio.config import Settings, override
from pairfolio.data.pair import Pair
from pairfolio.data.synthetic import phases
from pairfolio.evaluation.ledger import settle
from pairfolio.evaluation.metrics import sharpe
from pairfolio.report.verdict import verdict

KEYS = [
    "network",
    "network_lambda0",
    "half_half",
    "static_minimum_variance",
    "rolling_minimum_variance",
    "rolling_equal_risk",
    "bought_once",
    "hold_a",
    "hold_b",
    "spot",
]
# Phases of the synthetic spot with at least 30 tested bars.
NAMES = ["fall", "calm again"]


@pytest.fixture
def run(small_pair: Pair, tiny: Settings) -> Run:
    return run_backtest(small_pair, tiny, regimes=phases(small_pair.times))


def test_every_strategy_is_beside_the_network(run: Run) -> None:
    assert [strategy.key for strategy in run.results.strategies] == KEYS
    assert set(run.results.seeds) == {"network", "network_lambda0"}
    assert all(len(ones) == 2 for ones in run.results.seeds.values())


def test_figures_belong_to_the_weights(run: Run, small_pair: Pair, tiny: Settings) -> None:
    first = list(small_pair.times).index(run.times[0])
    tested = small_pair.returns[first : first + len(run.times)]
    assert len(run.times) == run.results.tested.bars == len(small_pair.times) - 1 - first
    for key in KEYS[:-1]:
        own = settle(run.ledgers[key].weights, tested, tiny.loss.fee)
        found = run.results.strategy(key)
        assert found.metrics.sharpe == sharpe(own.net, 2191.5)
        assert found.metrics.total_return == pytest.approx(float(own.equity[-1] - 1))


def test_the_traded_weight_is_the_mean_of_the_seeds(small_pair: Pair, tiny: Settings) -> None:
    alone = [
        run_backtest(small_pair, override(tiny, {"seeds": seeds})).ledgers["network"].weights
        for seeds in ((0,), (1,), (0, 1))
    ]
    np.testing.assert_allclose((alone[0] + alone[1]) / 2, alone[2], rtol=1e-12)
    assert not np.array_equal(alone[0], alone[1])


def test_the_static_weight_is_known_before_the_first_trade(run: Run) -> None:
    record = run.results.folds[0]
    assert (run.ledgers["static_minimum_variance"].weights == record.minimum_variance_weight).all()


def test_filling_at_the_next_open_loses_one_bar(run: Run, small_pair: Pair, tiny: Settings) -> None:
    opens = np.column_stack([frame["open"].to_numpy() for frame in small_pair.frames[:2]])
    first = list(small_pair.times).index(run.times[0])
    returns = opens[first + 2 :] / opens[first + 1 : -1] - 1
    own = settle(run.ledgers["network"].weights[:-1], returns, tiny.loss.fee)
    assert run.results.next_open is not None
    assert run.results.next_open.sharpe == sharpe(own.net, 2191.5)


def test_without_a_term_the_network_is_trained_once(small_pair: Pair, tiny: Settings) -> None:
    results = run_backtest(small_pair, override(tiny, {"loss.term": "none"})).results
    assert [strategy.key for strategy in results.strategies] == [
        key for key in KEYS if key != "network_lambda0"
    ]


def test_bars_per_year_can_be_stated(small_pair: Pair, tiny: Settings, run: Run) -> None:
    closed = run_backtest(small_pair, override(tiny, {"bars_per_year": 252.0})).results
    ratio = run.results.strategy("half_half").metrics.sharpe
    stated = closed.strategy("half_half").metrics.sharpe
    assert ratio is not None
    assert stated == pytest.approx(ratio * math.sqrt(252 / 2191.5))
    assert closed.tested.bars_per_year == 252


def test_situations_cut_the_tested_bars(run: Run) -> None:
    assert [regime.name for regime in run.results.regimes] == ["rise", "fall", "calm again"][
        -len(run.results.regimes) :
    ]
    for regime in run.results.regimes:
        inside = (run.times >= regime.first) & (run.times < regime.last)
        assert regime.bars == inside.sum() >= 30
        growth = np.prod(1 + run.ledgers["network"].net[inside]) - 1
        assert regime.strategies["network"].total_return == pytest.approx(growth)


def test_the_beta_of_the_spot_is_one(run: Run) -> None:
    assert run.results.strategy("spot").spot_beta == pytest.approx(1.0)
    assert run.results.strategy("hold_a").spot_beta == pytest.approx(3.0, abs=0.1)
    assert run.results.strategy("hold_b").spot_beta == pytest.approx(-3.0, abs=0.1)


def test_sentences_follow_the_intervals(run: Run) -> None:
    network = run.results.strategy("network")
    cases = [
        ((0.1, 0.9), "above zero on this span"),
        ((-0.9, -0.1), "lost money"),
        ((-0.1, 0.9), "from chance"),
    ]
    for (low, high), expected in cases:
        network.sharpe.value, network.sharpe.low, network.sharpe.high = (low + high) / 2, low, high
        assert expected in verdict(run.results)[0]
    assert network.versus_half is not None
    network.versus_half.low, network.versus_half.high = -0.2, 0.3
    assert "no difference can be told from chance" in verdict(run.results)[1]
    network.versus_half.low = 0.1
    assert "better than half/half on this span" in verdict(run.results)[1]
