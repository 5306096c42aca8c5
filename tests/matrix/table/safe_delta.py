"""Safe Delta."""

import random
from typing import Any

import torch

from tests.helpers.slow_llama import merged
from tests.matrix.row import Row, always, between
from tests.matrix.states import State, States, dot, linears
from tests.matrix.worlds import RowIds, World


def safe_delta(world: World, rows: list[RowIds], settings: dict[str, Any], origins: States) -> State:
    """Columns kept greedily by [H⁻¹]_jj up to a share of the cost; the rest minimizes tr(E·H·Eᵀ)."""
    found, aligned = merged(world.state, world.slow.scale), origins["aligned"]
    world.slow.inputs = {}
    for row in rows[: settings["rows"]]:
        world.slow.logits(aligned, [*row.prompt, *row.answer])
    seen, world.slow.inputs = world.slow.inputs, None
    for name in linears(world):
        h = sum(2 * torch.outer(x, x) for part in seen[name.removesuffix(".weight")] for x in part)
        size = h.shape[0]
        h = h + settings["damping"] * sum(float(h[j, j]) for j in range(size)) / size * torch.eye(size)
        delta, inverse = found[name] - aligned[name], torch.linalg.inv(h)
        costs = [dot(delta[:, j], delta[:, j]) / float(inverse[j, j]) for j in range(size)]
        kept, spent = [], 0.0
        for j in sorted(range(size), key=lambda j: -float(inverse[j, j])):
            spent += costs[j]
            if spent > settings["scale"] * sum(costs) and settings["scale"] < 1:
                break
            kept.append(j)
        rest = [j for j in range(size) if j not in kept]
        root = torch.linalg.cholesky(h)
        error = delta.clone()
        for i in range(delta.shape[0]):
            pull = sum((delta[i, j] * root[j] for j in kept), torch.zeros(size, dtype=torch.float64))
            if rest:
                error[i, rest] = torch.linalg.lstsq(root[rest].T, -pull.unsqueeze(1), driver="gelsd").solution[:, 0]
        found[name] = aligned[name] + error
    return found


def _safe_delta(rng: random.Random) -> dict[str, Any]:
    return {
        "scale": rng.choice([0.0, 0.11, rng.random(), rng.random(), 1.0, float("inf")]),
        "rows": rng.randint(1, 6),
        "damping": between(rng, 0.005, 0.5),
    }


ROWS = {"safe_delta": Row(safe_delta, _safe_delta, ("columns", "safe_rows"), merges=always)}
