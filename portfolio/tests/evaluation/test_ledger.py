import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairfolio.evaluation.ledger import drift, settle
from pairfolio.strategies.fixed import bought_once, constant

bars = st.tuples(st.floats(0, 1), st.floats(-0.5, 0.8), st.floats(-0.5, 0.8))


def test_costs_of_a_hand_worked_example() -> None:
    """Two bars at a fee of 1 %.

    Buy 50/50 from cash: traded 1, cost 0.01. A +10 %, B −10 %: gross 0, net −0.01. The weight of A
    drifts to 0.55/(0.55 + 0.45) = 0.55; back to 0.5 trades 2·0.05 = 0.1, cost 0.001. A 0, B +20 %: gross 0.1,
    net 0.099. Wealth 0.99 · 1.099 = 1.08801.
    """
    ledger = settle(np.array([0.5, 0.5]), np.array([[0.1, -0.1], [0.0, 0.2]]), fee=0.01)
    np.testing.assert_allclose(ledger.gross, [0.0, 0.1], atol=1e-15)
    np.testing.assert_allclose(ledger.turnover, [1.0, 0.1], rtol=1e-12)
    np.testing.assert_allclose(ledger.net, [-0.01, 0.099], rtol=1e-12)
    np.testing.assert_allclose(ledger.equity, [0.99, 1.08801], rtol=1e-12)


@given(st.lists(bars, min_size=2, max_size=30), st.floats(0, 0.01))
@settings(max_examples=100, deadline=None)
def test_turnover_against_amounts_held(rows: list[tuple[float, float, float]], fee: float) -> None:
    """Keep amounts of both assets in money and count what is bought and sold."""
    weights, returns = np.array([row[0] for row in rows]), np.array([row[1:] for row in rows])
    ledger = settle(weights, returns, fee)
    amounts = [0.0, 0.0]
    for place, (weight, up, down) in enumerate(rows):
        wealth = sum(amounts) or 1.0
        wanted = [weight * wealth, (1 - weight) * wealth]
        traded = sum(abs(new - old) for new, old in zip(wanted, amounts, strict=True)) / wealth
        assert ledger.turnover[place] == pytest.approx(traded, abs=1e-9)
        amounts = [wanted[0] * (1 + up), wanted[1] * (1 + down)]
        grown = sum(amounts) / wealth - 1
        assert ledger.net[place] == pytest.approx(grown - fee * traded, abs=1e-9)


def test_a_mix_bought_once_trades_once() -> None:
    rng = np.random.default_rng(0)
    returns = rng.normal(0, 0.05, size=(200, 2))
    ledger = settle(bought_once(0.3, returns), returns, 0.001)
    np.testing.assert_allclose(ledger.turnover[1:], 0, atol=1e-12)
    held = 0.3 * np.prod(1 + returns[:, 0]) + 0.7 * np.prod(1 + returns[:, 1])
    assert np.prod(1 + ledger.gross) == pytest.approx(held, rel=1e-10)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_one_asset_held_never_trades_again(weight: float) -> None:
    returns = np.random.default_rng(1).normal(0, 0.05, size=(50, 2))
    ledger = settle(constant(weight, 50), returns, 0.001)
    np.testing.assert_allclose(ledger.turnover[1:], 0, atol=1e-15)
    np.testing.assert_allclose(ledger.gross, returns[:, 0 if weight else 1])


def test_drift() -> None:
    np.testing.assert_allclose(drift(np.array([0.5, 1.0]), np.array([[0.5, -0.5], [0.3, 0.1]])), [0.75, 1.0])
