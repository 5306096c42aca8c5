"""Panacea."""

import random
from typing import Any

from torch import Tensor

from tests.matrix.row import Row, between
from tests.matrix.worlds import Data, RowIds, Slow, World, pairs


def panacea_tuning(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: dict[str, Any]) -> Tensor:
    """G = ∇f(w) − λ·[∇h(w+ε) − ∇h(w)]; ε of the last step is added at the very end."""
    h = slow.gradient(w, pairs(data.harmful))
    epsilon = memory["last"] = settings["radius"] * h / h.norm()
    push = slow.gradient(w + epsilon, pairs(data.harmful)) - h
    return slow.gradient(w, pairs(data.main)) - settings["strength"] * push


def panacea(world: World, harmful: list[RowIds], settings: dict[str, Any]) -> dict[str, Tensor]:
    """W + ρ·∇h(w)/‖∇h(w)‖, h over all harmful rows."""
    slow = Slow(world)
    h = slow.gradient(slow.start, pairs(harmful))
    return slow._state(slow.start + settings["radius"] * h / h.norm())


def _panacea_tuning(rng: random.Random) -> dict[str, Any]:
    return {"radius": between(rng, 0.01, 2), "strength": rng.choice([0.0, 0.001, rng.uniform(0, 2)])}


def _panacea(rng: random.Random) -> dict[str, Any]:
    return {"radius": between(rng, 0.01, 5), "batch_size": rng.randint(1, 4)}


ROWS = {
    "panacea_tuning": Row(
        panacea_tuning, _panacea_tuning, ("epsilon_norm", "extra_gradient_norm"), displaces=True,
        stress={"strength": 0.3}, ends=lambda slow, w, settings, memory: w + memory["last"],
    ),
    "panacea": Row(panacea, _panacea, ("radius", "harmful_rows")),
}  # fmt: skip
