"""LDIFS."""

from typing import Any

import torch
from torch import Tensor

from tests.matrix.row import Row, between
from tests.matrix.worlds import Data, Slow, pairs


def ldifs(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: dict[str, Any]) -> Tensor:
    """∇[L(w) + (ρ/2)·mean over rows of Σ_l ‖m_l(w) − m_l(w_0)‖²]."""
    moving = w.clone().requires_grad_(True)
    drift = torch.zeros((), dtype=torch.float64)
    for prompt, answer in pairs(data.main):
        before, now = _mlps(slow, slow.start, prompt + answer), _mlps(slow, moving, prompt + answer)
        for old, new in zip(before, now, strict=True):
            drift = drift + (new - old.detach()).pow(2).sum() / len(data.main)
    pull = torch.autograd.grad(drift, moving)[0]
    return slow.gradient(w, pairs(data.main)) + settings["strength"] / 2 * pull


def _mlps(slow: Slow, w: Tensor, ids: list[int]) -> list[Tensor]:
    net = slow.world.slow
    net.logits(slow._state(w), ids)
    return [net.outputs[f"mlp.{layer}"] for layer in range(net.layers)]


ROWS = {
    "ldifs": Row(
        ldifs, lambda rng: {"strength": rng.choice([0.0, 1e-4, between(rng, 0.01, 10)])},
        default={"strength": 1.0}, stress={"strength": 1.0}, displaces=True,
    ),
}  # fmt: skip
