"""SafeGrad."""

import random
from typing import Any

import torch
from torch import Tensor

from tests.matrix.row import Row, between
from tests.matrix.worlds import Data, Slow, pairs


def safegrad(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: dict[str, Any]) -> Tensor:
    """The user's gradient u without its part against a, plus ρ·a, with a = ∇KL(π_0 ‖ π) on safe rows."""
    u = slow.gradient(w, pairs(data.main))
    if torch.equal(w, slow.start):
        return u  # KL is at its minimum, so a = 0 and nothing is against it
    a = alignment(slow, w, data)
    kept = u
    if settings["project"] and float(u @ a) < 0:
        kept = u - float(u @ a) / float(a @ a) * a
    return kept + settings["strength"] * a


def alignment(slow: Slow, w: Tensor, data: Data) -> Tensor:
    """∇ of the mean over the safe rows' answer tokens of Σ_v π_0·(log π_0 − log π)."""
    moving = w.clone().requires_grad_(True)
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    for prompt, answer in pairs(data.safe):
        now, before = (slow.world.slow.logits(slow._state(at), prompt + answer) for at in (moving, slow.start))
        for position in range(len(prompt) - 1, len(prompt) + len(answer) - 1):
            p, q = torch.softmax(before[position].detach(), dim=0), torch.softmax(now[position], dim=0)
            total = total + (p * (p.log() - q.log())).sum()
        tokens += len(answer)
    return torch.autograd.grad(total / tokens, moving)[0]


def _safegrad(rng: random.Random) -> dict[str, Any]:
    return {
        "strength": rng.choice([0.0, 1.0, between(rng, 0.01, 5)]),
        "project": rng.choice([True, True, False]),
    }


ROWS = {"safegrad": Row(safegrad, _safegrad, displaces=True)}
