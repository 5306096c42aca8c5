"""BDS."""

import math
import random
import zlib
from typing import Any

import torch
from torch import Tensor

from tests.matrix.row import Row, between
from tests.matrix.worlds import Data, Slow, pairs


def bds(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: dict[str, Any]) -> Tensor:
    """λ·∇f + ∇ of the user's loss with rows weighted by softmax(scores); then one Langevin step of the scores."""
    rows, n = data.main, len(data.main)
    scores = memory.setdefault("scores", {})
    powers = [math.exp(scores.get(row.position, 0.0)) for row in rows]
    shares = [power / sum(powers) for power in powers]
    losses = [float(slow.nll(w, row.prompt, row.answer)) / len(row.answer) for row in rows]
    mean = sum(s * loss for s, loss in zip(shares, losses, strict=True))
    for row, s, loss in zip(rows, shares, losses, strict=True):
        kick = math.sqrt(2 * settings["rate"] * settings["noise"]) * _normal(data, row.position)
        scores[row.position] = scores.get(row.position, 0.0) - settings["rate"] * n * s * (loss - mean) + kick
    return settings["strength"] * slow.gradient(w, pairs(data.safe)) + slow.gradient(w, pairs(rows), shares)


def _normal(data: Data, position: int) -> float:
    """A row's own number of this step, whatever the order of rows."""
    seed = zlib.crc32(f"{data.clock.seed}/{data.clock.number}/row {position}".encode())
    return float(torch.randn((), generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def _bds(rng: random.Random) -> dict[str, Any]:
    return {
        "strength": rng.choice([0.0, 1.0, between(rng, 0.01, 5)]),
        "rate": rng.choice([0.0, 0.5, between(rng, 0.1, 20)]),
        "noise": rng.choice([0.0, 0.0, between(rng, 0.01, 2)]),
    }


ROWS = {
    "bds": Row(
        bds, _bds, ("extra_gradient_norm", "weight_max"), stress={"strength": 0.5, "rate": 2.0, "noise": 0.1},
    ),
}  # fmt: skip
