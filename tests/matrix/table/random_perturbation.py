"""Random perturbation."""

import math
import random
from typing import Any

import torch
from torch import Tensor

from tests.matrix.row import Row, between
from tests.matrix.worlds import RowIds, Slow, World


def random_perturbation(world: World, harmful: list[RowIds], settings: dict[str, Any]) -> dict[str, Tensor]:
    """W + N(0, std²), or w + ρ·n/‖n‖; the noise is drawn in float32 in the order of the weights."""
    slow = Slow(world)
    generator = torch.Generator().manual_seed(settings["seed"])
    drawn = [torch.randn(world.state[n].shape, generator=generator).reshape(-1) for n in world.names]
    noise = torch.cat(drawn).double()
    if "std" in settings:
        return slow._state(slow.start + settings["std"] * noise)
    return slow._state(slow.start + settings["radius"] * noise / math.sqrt(float((noise * noise).sum())))


def _random_perturbation(rng: random.Random) -> dict[str, Any]:
    size = rng.choice(["std", "radius"])
    return {size: between(rng, 0.001, 2), "seed": rng.randrange(1000)}


ROWS = {"random_perturbation": Row(random_perturbation, _random_perturbation, ("norm",), {"radius": 1.0})}
