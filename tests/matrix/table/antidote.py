"""Antidote."""

import math
import random
from typing import Any

import torch
from torch import Tensor

from tests.helpers.slow_llama import BLOCK_LINEARS
from tests.matrix.row import Row
from tests.matrix.worlds import RowIds, World


def antidote(world: World, harmful: list[RowIds], settings: dict[str, Any]) -> dict[str, Tensor]:
    """Zero the top α of |w_ij|·‖x_j‖, by output row or over all entries."""
    world.slow.inputs = {}
    for row in harmful:
        world.slow.logits(world.state, [*row.prompt, *row.answer])
    seen, world.slow.inputs = world.slow.inputs, None
    matrices = _prunable(world, settings["scope"])
    scores = {}
    for name, (matrix, feeding) in matrices.items():
        norms = [
            math.sqrt(sum(float((x[:, j] ** 2).sum()) for x in seen[feeding]) / len(harmful))
            for j in range(matrix.shape[1])
        ]
        plain = settings["score"] == "magnitude"
        scores[name] = [
            [abs(float(matrix[i, j])) * (1.0 if plain else norms[j]) for j in range(matrix.shape[1])]
            for i in range(matrix.shape[0])
        ]
    doomed = _top(scores, settings["mask_ratio"], settings["ranking"])
    pruned = {name: matrix.clone() for name, (matrix, _) in matrices.items()}
    for name, i, j in doomed:
        pruned[name][i, j] = 0.0
    return _written(world, settings["scope"], pruned)


def _delta(world: World, name: str) -> Tensor:
    first, second = world.state[f"{name}.lora_A.weight"], world.state[f"{name}.lora_B.weight"]
    return world.slow.scale * second @ first


def _prunable(world: World, scope: str) -> dict[str, tuple[Tensor, str]]:
    """Matrices by name, each with the name of the map whose input is its x."""
    linears = [f"model.layers.{i}.{kind}" for i in range(world.slow.layers) for kind in BLOCK_LINEARS]
    tuned = [name for name in linears if f"{name}.lora_A.weight" in world.state]
    if scope == "adapter":
        factors = [f"{name}.{factor}" for name in tuned for factor in ("lora_A", "lora_B")]
        return {name: (world.state[f"{name}.weight"], name) for name in factors}
    if scope == "delta":
        return {name: (_delta(world, name), name) for name in tuned}
    whole = {name: world.state[f"{name}.weight"] for name in linears}
    whole |= {name: whole[name] + _delta(world, name) for name in tuned}
    return {name: (matrix, name) for name, matrix in whole.items()}


def _top(scores: dict[str, Any], ratio: float, ranking: str) -> list[tuple[str, int, int]]:
    """Places of the highest scores, n − int(n·(1 − ratio)) in each group of n."""
    places = [(s, name, i, j) for name, rows in scores.items() for i, row in enumerate(rows) for j, s in enumerate(row)]
    groups: dict[Any, list[tuple[float, str, int, int]]] = {}
    for place in places:
        groups.setdefault(place[1:3] if ranking == "row" else "all", []).append(place)
    doomed = []
    for group in groups.values():
        number = len(group) - int(len(group) * (1 - ratio))
        doomed += [place[1:] for place in sorted(group, key=lambda place: -place[0])[:number]]
    return doomed


def _written(world: World, scope: str, pruned: dict[str, Tensor]) -> dict[str, Tensor]:
    state = dict(world.state)
    for name, matrix in pruned.items():
        state[f"{name}.weight"] = state[f"{name}.weight"] + matrix if scope == "delta" else matrix
        if scope != "adapter" and f"{name}.lora_B.weight" in state:
            state[f"{name}.lora_B.weight"] = torch.zeros_like(state[f"{name}.lora_B.weight"])
    return state


def _antidote(rng: random.Random) -> dict[str, Any]:
    return {
        "mask_ratio": rng.choice([0.0, 0.01, 0.05, 0.1, 0.2, 0.5, rng.random(), 1.0]),
        "scope": rng.choice(["adapter", "delta", "weights"]),
        "ranking": rng.choice(["row", "global"]),
        "score": rng.choice(["wanda", "wanda", "magnitude"]),
    }


ROWS = {
    "antidote": Row(
        antidote, _antidote, ("entries_pruned", "harmful_rows"),
        needs_lora=lambda settings: settings["scope"] != "weights",
        merges=lambda settings: settings["scope"] != "adapter",
    ),
}  # fmt: skip
