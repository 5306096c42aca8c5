"""Booster."""

import random
from typing import Any

from torch import Tensor

from tests.matrix.row import Row, between
from tests.matrix.worlds import Data, Slow, pairs


def booster(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: dict[str, Any]) -> Tensor:
    """∇f(w) + λ·[∇h(w) − ∇h(w − α·∇h(w)/‖∇h(w)‖)]."""
    f, h = slow.gradient(w, pairs(data.main)), slow.gradient(w, pairs(data.harmful))
    attacked = w - settings["radius"] * h / h.norm()
    return f + settings["strength"] * (h - slow.gradient(attacked, pairs(data.harmful)))


def _booster(rng: random.Random) -> dict[str, Any]:
    return {"strength": rng.choice([0.0, 5.0, rng.uniform(0, 25)]), "radius": rng.choice([0.0, between(rng, 0.01, 2)])}


ROWS = {"booster": Row(booster, _booster, ("extra_gradient_norm",), displaces=True)}
