"""Safe LoRA."""

import math
import random
from typing import Any

import torch

from tests.helpers.slow_llama import merged
from tests.matrix.row import Row, always
from tests.matrix.states import State, States, dot, linears
from tests.matrix.worlds import RowIds, World


def safe_lora(world: World, rows: list[RowIds], settings: dict[str, Any], origins: States) -> State:
    """Δ ← C·Δ with C = V·Vᵀ/‖V‖_F, where cos(C·Δ, Δ) ≤ τ or is among the k lowest."""
    found, projected = merged(world.state, world.slow.scale), {}
    for name in linears(world):
        v, delta = origins["aligned"][name] - origins["base"][name], found[name] - origins["aligned"][name]
        length = math.sqrt(dot(v, v))
        c = torch.tensor([[dot(a, b) / length for b in v] for a in v], dtype=torch.float64)
        turned = c @ delta
        cosine = dot(turned, delta) / math.sqrt(dot(turned, turned) * dot(delta, delta))
        projected[name] = (cosine, origins["aligned"][name] + turned)
    if settings.get("layers"):
        limit = sorted(cosine for cosine, _ in projected.values())[: settings["layers"]][-1]
    else:
        limit = settings.get("threshold", 0.5)
    return found | {name: turned for name, (cosine, turned) in projected.items() if cosine <= limit}


def _safe_lora(rng: random.Random) -> dict[str, Any]:
    some = {"threshold": rng.choice([-1.0, 0.3, 0.5, rng.random()])}
    return rng.choice([some, {"layers": rng.randint(1, 9)}, {}])


ROWS = {
    "safe_lora": Row(
        safe_lora,
        _safe_lora,
        ("layers_projected", "layers_compared"),
        merges=always,
        stress={"layers": 3},
    )
}
