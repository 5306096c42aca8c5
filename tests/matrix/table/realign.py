"""Realign."""

import random
from typing import Any

import torch
from torch import Tensor

from tests.matrix.row import Row, between
from tests.matrix.worlds import RowIds, Slow, World, pairs

BETAS, EPSILON = (0.9, 0.999), 1e-8
FEWEST_STEPS = 10
LARGEST_NORM = 1.0


def realign(world: World, safe: list[RowIds], settings: dict[str, Any]) -> dict[str, Tensor]:
    """Ten steps of AdamW without weight decay on the mean token loss of all rows, gradients clipped to norm 1."""
    slow = Slow(world)
    w, first, second = slow.start.clone(), torch.zeros_like(slow.start), torch.zeros_like(slow.start)
    for step in range(1, FEWEST_STEPS + 1 if settings["rows"] != 0 else 1):
        g = slow.gradient(w, pairs(safe))
        g = g * min(1.0, LARGEST_NORM / (float(g.norm()) + 1e-6))
        first = BETAS[0] * first + (1 - BETAS[0]) * g
        second = BETAS[1] * second + (1 - BETAS[1]) * g * g
        mean, spread = first / (1 - BETAS[0] ** step), (second / (1 - BETAS[1] ** step)).sqrt()
        w = w - settings["learning_rate"] * mean / (spread + EPSILON)
    return slow._state(w)


def _realign(rng: random.Random) -> dict[str, Any]:
    """All rows in every step, since only then is the order in which the trainer takes them without effect."""
    return {
        "rows": rng.choice([None, None, None, 0]),
        "learning_rate": between(rng, 1e-4, 1e-1),
        "step_rows": rng.randint(6, 16),
        "seed": rng.randrange(1000),
        "max_length": rng.choice([None, 64]),
    }


ROWS = {
    "realign": Row(
        realign, _realign, ("learning_rate", "safe_rows", "steps", "rows_trained"),
        # One row to a step, so that as many rows are trained on as are given where there are ten.
        default={"learning_rate": 1e-2, "step_rows": 1},
    ),
}  # fmt: skip
