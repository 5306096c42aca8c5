"""Random perturbation."""

import math
import random
from typing import Any

import numpy
import torch
from torch import Tensor

from tests.matrix.row import Row, between
from tests.matrix.worlds import RowIds, Slow, World


def random_perturbation(world: World, harmful: list[RowIds], settings: dict[str, Any]) -> dict[str, Tensor]:
    """W + N(0, std²), or w + ρ·n/‖n‖; the noise is drawn in float32, for each weight by the seed and its place."""
    slow = Slow(world)
    drawn = [
        numpy.random.default_rng([settings["seed"], place, 0]).standard_normal(world.state[name].numel(), numpy.float32)
        for place, name in enumerate(world.names)
    ]
    noise = torch.from_numpy(numpy.concatenate(drawn)).double()
    if "std" in settings:
        return slow._state(slow.start + settings["std"] * noise)
    return slow._state(slow.start + settings["radius"] * noise / math.sqrt(float((noise * noise).sum())))


def _random_perturbation(rng: random.Random) -> dict[str, Any]:
    size = rng.choice(["std", "radius"])
    return {size: between(rng, 0.001, 2), "seed": rng.randrange(1000)}


ROWS = {"random_perturbation": Row(random_perturbation, _random_perturbation, ("norm",), {"radius": 1.0})}
