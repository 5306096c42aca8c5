"""TABL against a plain forward pass written from the paper's equations, number by number."""

import math

import numpy as np
import pytest
import torch

from pairfolio.config import NetworkSettings
from pairfolio.learning.networks import Allocator
from pairfolio.learning.tabl import Attention

Named = dict[str, np.ndarray]


def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """A matrix product as three loops."""
    out = np.zeros((left.shape[0], right.shape[1]))
    for i in range(left.shape[0]):
        for j in range(right.shape[1]):
            out[i, j] = sum(left[i, k] * right[k, j] for k in range(left.shape[1]))
    return out


def plain_mask(projected: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Softmax over the bars of X̄·W, the diagonal of W at one over the bars."""
    bars = energy.shape[0]
    fixed = energy.copy()
    for place in range(bars):
        fixed[place, place] = 1 / bars
    raised = np.exp(product(projected, fixed))
    return np.stack([row / row.sum() for row in raised])


def plain_attention(window: np.ndarray, part: Named) -> np.ndarray:
    """The layer on one input, rows by bars."""
    projected = product(part["left"], window)
    share = 1 / (1 + math.exp(-float(part["share"])))
    attended = share * projected * plain_mask(projected, part["energy"]) + (1 - share) * projected
    return np.maximum(product(attended, part["right"]) + part["shift"], 0)


def plain_weight(window: np.ndarray, named: Named) -> float:
    """The whole network on one window, bars by features."""
    first = product(product(named["body.bilinear.left"], window.T), named["body.bilinear.right"])
    hidden = np.maximum(first + named["body.bilinear.shift"], 0)
    part = {key.removeprefix("body.attention."): value for key, value in named.items()}
    column = plain_attention(hidden, part)
    logits = product(named["head.weight"], column)[:, 0] + named["head.bias"]
    return float(np.exp(logits[0]) / np.exp(logits).sum())


@pytest.mark.parametrize("window", [2, 3, 8])
def test_weights_equal_the_plain_forward_pass(window: int) -> None:
    torch.manual_seed(0)
    settings = NetworkSettings(kind="tabl", window=window, hidden=5, dropout=0.2)
    network = Allocator(4, settings, 0.4).double().eval()
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.3 * torch.randn(value.shape, dtype=torch.float64))
    named = {key: value.numpy() for key, value in network.state_dict().items()}
    windows = torch.randn(6, window, 4, dtype=torch.float64)
    expected = [plain_weight(one, named) for one in windows.numpy()]
    found = network(windows).detach().numpy()
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_the_diagonal_of_the_energy_is_never_learnt() -> None:
    layer = Attention(3, 4, 2, 1)
    layer(torch.randn(5, 3, 4)).sum().backward()
    assert layer.energy.grad is not None
    assert bool((layer.energy.grad.diagonal() == 0).all())
    assert float(layer.energy.grad.abs().sum()) > 0


def test_without_a_share_the_layer_is_bilinear() -> None:
    layer = Attention(3, 4, 2, 1)
    signal = torch.randn(5, 3, 4)
    with torch.no_grad():
        layer.share.fill_(-50.0)
    torch.testing.assert_close(layer(signal), torch.relu(layer.left @ signal @ layer.right + layer.shift))
