"""TAR."""

import math
import random
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.matrix.row import Row, between
from tests.matrix.worlds import Data, RowIds, Slow, pairs, refused


def tar(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: dict[str, Any]) -> Tensor:
    """λ_ret·∇[f + drift·‖h − h₀‖] + λ_TR·Σ_{n | k} exp(s·(k − K))·∇L(w_k), along K steps of AdamW."""
    steps = settings["inner_steps"]
    total = settings["retain"] * _retained(slow, w, data.main, settings["drift"])
    chance = random.Random(zlib.crc32(f"{data.clock.seed}/{data.clock.number}/adversary".encode()))
    rate = chance.choice(settings["rates"])
    turn = int(chance.betavariate(6, 3) * steps) if settings["switching"] else 0
    adversary, attacks = AdamW(w, rate), iter(data.later)
    for k in range(1, steps + 1):
        rows = data.main if k <= turn else next(attacks)
        adversary.step(slow.gradient(adversary.w, pairs(rows)))
        if k % settings["tamper_every"] == 0:
            pull = _tamper(slow, adversary.w, data, settings)
            total = total + settings["strength"] * math.exp(settings["schedule"] * (k - steps)) * pull
    return total


class AdamW:
    """Decoupled weight decay 0.01, β = (0.9, 0.999), ε = 1e-8."""

    def __init__(self, w: Tensor, rate: float) -> None:
        self.w, self.rate, self.count = w.clone(), rate, 0
        self.first, self.second = torch.zeros_like(w), torch.zeros_like(w)

    def step(self, g: Tensor) -> None:
        self.count += 1
        self.first = 0.9 * self.first + 0.1 * g
        self.second = 0.999 * self.second + 0.001 * g * g
        mean, square = self.first / (1 - 0.9**self.count), self.second / (1 - 0.999**self.count)
        self.w = self.w - self.rate * 0.01 * self.w - self.rate * mean / (torch.sqrt(square) + 1e-8)


def _retained(slow: Slow, w: Tensor, rows: Sequence[RowIds], drift: float) -> Tensor:
    """∇[f + drift · mean over rows of (mean over a row's tokens and blocks of ‖h − h₀‖)]."""
    v = w.clone().requires_grad_(True)
    means = []
    for row in rows:
        distances = []
        for now, then in zip(_hidden(slow, v, row), _hidden(slow, slow.start, row), strict=True):
            for gap in now - then:
                # The norm has no derivative at zero; 0 is a subgradient.
                distances.append(gap.norm() if bool(gap.any()) else 0 * gap.sum())
        means.append(torch.stack(distances).mean())
    return slow.gradient(w, pairs(rows)) + drift * torch.autograd.grad(torch.stack(means).mean(), v)[0]


def _hidden(slow: Slow, w: Tensor, row: RowIds) -> list[Tensor]:
    slow.nll(w, row.prompt, row.answer)
    return [slow.world.slow.outputs[f"block.{layer}"] for layer in range(slow.world.slow.layers)]


def _tamper(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any]) -> Tensor:
    """∇ of the tamper loss on the step's held-out harmful batch."""
    w = w.clone().requires_grad_(True)
    if settings["tamper"] == "entropy":
        losses = _negative_entropies(slow, w, data.harmful)
    else:
        gains = _margins(slow, w, data) - _margins(slow, slow.start, data)
        losses = -torch.log(1 / (1 + torch.exp(-settings["temperature"] * gains)))
    return torch.autograd.grad(losses.mean(), w)[0]


def _negative_entropies(slow: Slow, w: Tensor, rows: Sequence[RowIds]) -> Tensor:
    """Σ p·log p of every answer token of all rows."""
    state, found = slow._state(w), []
    for row in rows:
        logs = torch.log_softmax(slow.world.slow.logits(state, [*row.prompt, *row.answer]), dim=1)
        for place in range(len(row.prompt), len(row.prompt) + len(row.answer)):
            found.append((logs[place - 1].exp() * logs[place - 1]).sum())
    return torch.stack(found)


def _margins(slow: Slow, w: Tensor, data: Data) -> Tensor:
    """Log π(refusal) − log π(harmful answer) of every held-out row."""
    both = zip(pairs(data.harmful), refused(data.harmful, data.refusals), strict=True)
    return torch.stack([slow.nll(w, *answered) - slow.nll(w, *refusal) for answered, refusal in both])


def _tar(rng: random.Random) -> dict[str, Any]:
    return {
        "inner_steps": rng.randint(0, 4),
        "tamper_every": rng.randint(1, 2),
        "strength": rng.choice([0.0, 4.0, rng.uniform(0, 5)]),
        "retain": rng.choice([0.0, 1.0, rng.uniform(0, 2)]),
        "drift": rng.choice([0.0, 1.0, rng.uniform(0, 2)]),
        "schedule": rng.choice([0.0, 0.0625, rng.uniform(0, 1)]),
        "tamper": rng.choice(["entropy", "dpo"]),
        "temperature": between(rng, 0.05, 1),
        "rates": rng.choice([(1e-3, 1e-2), (1e-3,), (2e-3, 5e-3, 2e-2)]),
        "switching": rng.random() < 0.5,
    }


ROWS = {
    "tar": Row(
        tar, _tar, ("tamper_gradient_norm", "retain_gradient_norm"),
        {"inner_steps": 4, "tamper_every": 2, "rates": [0.01]}, displaces=True,
        # AdamW divides by a gradient's own size: steps of 0.003 make 1e-7 of rounding 1e-5.
        stress={"inner_steps": 3, "tamper_every": 1, "rates": [0.0003, 0.001], "switching": True},
    ),
}  # fmt: skip
