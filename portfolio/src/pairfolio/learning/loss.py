"""The loss: −Sharpe of returns net of costs, plus a term that keeps the weight near minimum variance.

With w_t the weight of A decided at the close of t, R the simple returns over (t, t+1] and c the fee:

    g_t = w_t·R_A + (1 − w_t)·R_B                        gross return
    v_t = w_{t−1}·(1 + R_A) / (1 + g_{t−1})              weight after drift
    r_t = g_t − c·2·|w_t − v_t|                          net return; both legs are traded
    L   = −mean(r)/(sd(r) + ε) + λ·term(w)               sd with divisor n

Direct maximization of the Sharpe ratio follows Zhang, Zohren and Roberts (2020, arXiv 2005.13665). The term
is after the idea of Nguyen et al. (2023, arXiv 2310.01148), whose formula is not known here.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pairfolio.config import LossSettings
from pairfolio.errors import DataError

EPSILON = 1e-8


class Moments(NamedTuple):
    """Variances of A and B and their covariance, all per bar."""

    a: float
    b: float
    g: float

    @property
    def curvature(self) -> float:
        """Variance of R_A − R_B, a + b − 2g: V(w) − V(w*) = (w − w*)²·(a + b − 2g)."""
        return self.a + self.b - 2 * self.g

    @property
    def minimum_variance_weight(self) -> float:
        """w* = (b − g)/(a + b − 2g), held to 0…1 because nothing is sold short."""
        return min(max((self.b - self.g) / self.curvature, 0.0), 1.0)

    def variance(self, weight: float) -> float:
        """V(w) of the mix."""
        return weight**2 * self.a + (1 - weight) ** 2 * self.b + 2 * weight * (1 - weight) * self.g


def moments(returns: Tensor) -> Moments:
    """Moments of a block of returns, shape (bars, 2).

    Raises:
        DataError: If the two assets move alike, so that no mix has less variance than another.
    """
    a, g, _, b = torch.cov(returns.double().T, correction=0).flatten().tolist()
    found = Moments(a, b, g)
    if found.curvature <= 1e-12 * (a + b) or a + b <= 0:
        raise DataError("the two assets have equal returns in a training block; give two different assets")
    return found


def anchor_weight(moments: Moments, settings: LossSettings) -> float:
    """The weight the term pulls to: w* of the training block, or one half."""
    return 0.5 if settings.anchor == "half" else moments.minimum_variance_weight


def net_returns(weights: Tensor, returns: Tensor, fee: float) -> Tensor:
    """Net returns of a block, shape (bars,); the first weight is taken as already held."""
    a, b = returns.unbind(-1)
    gross = weights * a + (1 - weights) * b
    drifted = weights[:-1] * (1 + a[:-1]) / (1 + gross[:-1])
    traded = 2 * (weights[1:] - drifted).abs()
    return gross - fee * torch.cat([traded.new_zeros(1), traded])


def sharpe(returns: Tensor) -> Tensor:
    """Mean over standard deviation, per bar."""
    return returns.mean() / (returns.std(correction=0) + EPSILON)


def proximity(weights: Tensor, anchor: float) -> Tensor:
    """The mean of (w − w*)²: punishes the average tilt and the activity."""
    return (weights - anchor).square().mean()


def bias(weights: Tensor, anchor: float) -> Tensor:
    """(mean w − w*)²: punishes the average tilt only."""
    return (weights.mean() - anchor).square()


def variance(weights: Tensor, moments: Moments) -> Tensor:
    """The mean of V(w)/V(w*) − 1: the excess risk over minimum variance."""
    mixed = weights.square() * moments.a + (1 - weights).square() * moments.b
    mixed = mixed + 2 * weights * (1 - weights) * moments.g
    return mixed.mean() / moments.variance(moments.minimum_variance_weight) - 1


def term(weights: Tensor, moments: Moments, settings: LossSettings) -> Tensor:
    """The term named in the settings."""
    if settings.term == "variance":
        return variance(weights, moments)
    if settings.term == "none":
        return weights.new_zeros(())
    chosen = proximity if settings.term == "proximity" else bias
    return chosen(weights, anchor_weight(moments, settings))


def allocation_loss(weights: Tensor, returns: Tensor, moments: Moments, settings: LossSettings) -> Tensor:
    """The loss over one contiguous block.

    Args:
        weights: Weight of A, shape (bars,), in time order.
        returns: Simple returns of A and B after each weight, shape (bars, 2).
        moments: Of the whole training block.
        settings: Fee, term and its strength.
    """
    earned = sharpe(net_returns(weights, returns, settings.fee))
    return -earned + settings.strength * term(weights, moments, settings)
