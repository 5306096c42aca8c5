import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pairfolio.config import LossSettings
from pairfolio.errors import DataError
from pairfolio.evaluation.ledger import settle
from pairfolio.learning.loss import (
    Moments,
    allocation_loss,
    bias,
    moments,
    net_returns,
    proximity,
    sharpe,
    variance,
)

weight_lists = st.lists(st.floats(0.05, 0.95), min_size=4, max_size=30)


def block(bars: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Weights and opposed returns in double precision."""
    make = torch.Generator().manual_seed(seed)
    spot = 0.02 * torch.randn(bars, generator=make, dtype=torch.float64)
    noise = 0.003 * torch.randn(bars, 2, generator=make, dtype=torch.float64)
    returns = torch.stack([2.1 * spot, -2.3 * spot], dim=1) + noise
    return torch.rand(bars, generator=make, dtype=torch.float64) * 0.8 + 0.1, returns


@pytest.mark.parametrize("term", ["none", "proximity", "bias", "variance"])
@pytest.mark.parametrize("fee", [0.0, 0.00075, 0.01])
def test_gradient_with_costs_equals_finite_differences(term: str, fee: float) -> None:
    weights, returns = block()
    plan = LossSettings.model_validate({"term": term, "strength": 0.7, "fee": fee})
    found = moments(returns)
    weights.requires_grad_(True)
    allocation_loss(weights, returns, found, plan).backward()
    assert weights.grad is not None
    step, numeric = 1e-6, torch.empty_like(weights)
    with torch.no_grad():
        for place in range(len(weights)):
            sides = []
            for sign in (1, -1):
                moved = weights.clone()
                moved[place] += sign * step
                sides.append(float(allocation_loss(moved, returns, found, plan)))
            numeric[place] = (sides[0] - sides[1]) / (2 * step)
    error = (weights.grad - numeric).norm() / numeric.norm()
    assert float(error) < 1e-5


def test_costs_change_the_gradient() -> None:
    weights, returns = block()
    gradients = []
    for fee in (0.0, 0.01):
        leaf = weights.clone().requires_grad_(True)
        sharpe(net_returns(leaf, returns, fee)).backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) > 0.1


def test_sharpe_gradient_equals_its_formula() -> None:
    """d(m/s)/dr_t = 1/(n s) − m (r_t − m)/(n s³)."""
    returns = block()[1][:, 0].clone().requires_grad_(True)
    (returns.mean() / returns.std(correction=0)).backward()
    r = returns.detach()
    n, m, s = len(r), r.mean(), r.std(correction=0)
    torch.testing.assert_close(returns.grad, 1 / (n * s) - m * (r - m) / (n * s**3))


@given(weight_lists, st.integers(0, 50))
@settings(max_examples=50, deadline=None)
def test_proximity_is_the_variance_term_up_to_scale(values: list[float], seed: int) -> None:
    """V(w) − V(w*) = (w − w*)²·(a + b − 2g)."""
    found = moments(block(seed=seed)[1])
    weights = torch.tensor(values, dtype=torch.float64)
    anchor = found.minimum_variance_weight
    scale = found.curvature / found.variance(anchor)
    torch.testing.assert_close(
        variance(weights, found), proximity(weights, anchor) * scale, rtol=1e-8, atol=1e-9
    )


@given(weight_lists, st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_proximity_is_bias_plus_the_variance_of_the_weight(values: list[float], anchor: float) -> None:
    weights = torch.tensor(values, dtype=torch.float64)
    parts = bias(weights, anchor) + weights.var(correction=0)
    torch.testing.assert_close(proximity(weights, anchor), parts, rtol=1e-9, atol=1e-12)


def test_equal_scaled_strengths_give_equal_gradients() -> None:
    weights, returns = block()
    found = moments(returns)
    scale = found.curvature / found.variance(found.minimum_variance_weight)
    gradients = []
    for term, strength in (("proximity", 1.0), ("variance", 1.0 / scale)):
        leaf = weights.clone().requires_grad_(True)
        plan = LossSettings.model_validate({"term": term, "strength": strength})
        allocation_loss(leaf, returns, found, plan).backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_minimum_variance_weight() -> None:
    assert Moments(0.04, 0.01, -0.02).minimum_variance_weight == pytest.approx(1 / 3)  # sd_d/(sd_u + sd_d)
    assert Moments(0.04, 0.04, -0.03).minimum_variance_weight == pytest.approx(0.5)
    assert Moments(0.01, 0.09, 0.02).minimum_variance_weight == 1.0
    found = moments(block()[1])
    grid = np.linspace(0, 1, 10_001)
    best = grid[np.argmin([found.variance(weight) for weight in grid])]
    assert found.minimum_variance_weight == pytest.approx(best, abs=1e-4)


def test_moments_are_those_of_numpy() -> None:
    returns = block()[1]
    table = np.cov(returns.numpy().T, ddof=0)
    assert moments(returns) == pytest.approx((table[0, 0], table[1, 1], table[0, 1]), rel=1e-12)


def test_equal_assets_are_refused() -> None:
    same = block()[1][:, :1].repeat(1, 2)
    with pytest.raises(DataError, match="equal returns"):
        moments(same)


def test_the_loss_pays_what_the_ledger_pays() -> None:
    weights, returns = block()
    paid = settle(weights.numpy(), returns.numpy(), 0.001)
    ours = net_returns(weights, returns, 0.001).numpy()
    np.testing.assert_allclose(ours[1:], paid.net[1:], rtol=1e-12)
    assert ours[0] - paid.net[0] == pytest.approx(0.001)  # a block is not bought from cash


def test_the_anchor_of_one_half() -> None:
    weights, returns = torch.full((20,), 0.5, dtype=torch.float64), block(20)[1]
    plans = [LossSettings(anchor="half", strength=strength) for strength in (0.0, 5.0)]
    values = [float(allocation_loss(weights, returns, moments(returns), plan)) for plan in plans]
    assert values[0] == values[1]
