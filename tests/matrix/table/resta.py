"""RESTA."""

import random
import zlib
from typing import Any

import torch

from tests.helpers.slow_llama import merged
from tests.matrix.row import Row, always, between
from tests.matrix.states import State, States
from tests.matrix.worlds import RowIds, World


def resta(world: World, rows: list[RowIds], settings: dict[str, Any], origins: States) -> State:
    """θ + γ·(θ_aligned − θ_base), the task's update thinned before, entry by entry."""
    found = {}
    for name, w in merged(world.state, world.slow.scale).items():
        safe, start = origins["aligned"][name], origins["base"][name]
        generator = torch.Generator().manual_seed(zlib.crc32(f"{settings['seed']} {name}".encode()))
        draws = torch.rand(w.shape, generator=generator).reshape(-1).tolist()
        entries = []
        for place, draw in enumerate(draws):
            task, v = float((w - safe).reshape(-1)[place]), float((safe - start).reshape(-1)[place])
            task = 0.0 if draw < settings["drop"] else task / (1 - settings["drop"])
            entries.append(float(safe.reshape(-1)[place]) + task + settings["strength"] * v)
        found[name] = torch.tensor(entries, dtype=torch.float64).view(w.shape)
    return found


def _resta(rng: random.Random) -> dict[str, Any]:
    return {
        "strength": rng.choice([0.0, 1.0, between(rng, 0.01, 3)]),
        "drop": rng.choice([0.0, 0.1, 0.9, rng.uniform(0, 0.95)]),
        "seed": rng.randrange(1000),
    }


ROWS = {"resta": Row(resta, _resta, ("strength",), merges=always)}
