"""Vaccine and T-Vaccine."""

import math
import random
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.matrix.row import Row, between
from tests.matrix.worlds import Data, RowIds, Slow, pairs


def vaccine(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: dict[str, Any]) -> Tensor:
    """∇f(w) under the noise ρ·(∂f/∂o)/‖∂f/∂o‖, o all attention outputs of all rows."""
    return _under_noise(slow, w, data.main, range(slow.world.slow.layers), settings["radius"])


def t_vaccine(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: dict[str, Any]) -> Tensor:
    """Vaccine on S blocks, drawn by ‖∂h/∂o_l‖ of one harmful row; nothing for the weights of other blocks."""
    every, wanted, number = range(slow.world.slow.layers), settings["blocks"], data.clock.number
    if number % settings["measure_every"] == 0:
        norms = [float(o.norm()) for o in _by_outputs(slow, w, data.harmful[0], every)]
        memory["chances"] = [norm / sum(norms) for norm in norms]
    if number % settings["draw_every"] == 0:
        memory["drawn"] = list(every)
        if wanted is not None and wanted < len(every):
            seed = zlib.crc32(f"{data.clock.seed}/{number}/blocks".encode())
            chances = torch.tensor(memory["chances"], dtype=torch.float64)
            memory["drawn"] = torch.multinomial(
                chances, wanted, replacement=False, generator=torch.Generator().manual_seed(seed)
            ).tolist()
    gradient = _under_noise(slow, w, data.main, memory["drawn"], settings["radius"])
    for block in every:
        if block not in memory["drawn"]:
            gradient[_belongs(slow, block)] = 0
    return gradient


def _under_noise(slow: Slow, w: Tensor, rows: Sequence[RowIds], blocks: Sequence[int], radius: float) -> Tensor:
    tokens = sum(len(row.answer) for row in rows)
    pulls = [[o / tokens for o in _by_outputs(slow, w, row, blocks)] for row in rows]
    norm = math.sqrt(sum(float((o * o).sum()) for row in pulls for o in row))
    total = torch.zeros_like(w)
    for (prompt, answer), row in zip(pairs(rows), pulls, strict=True):
        noise = {f"attention.{block}": radius * o / norm for block, o in zip(blocks, row, strict=True)}
        slow.world.slow.shifts = noise
        total += slow.gradient(w, [(prompt, answer)]) * len(answer) / tokens
        slow.world.slow.shifts = {}
    return total


def _by_outputs(slow: Slow, w: Tensor, row: RowIds, blocks: Sequence[int]) -> list[Tensor]:
    """∂NLL/∂(attention outputs) of one row, (tokens, features) for each block."""
    nll = slow.nll(w.clone().requires_grad_(True), row.prompt, row.answer)
    outputs = slow.world.slow.outputs
    return list(torch.autograd.grad(nll, [outputs[f"attention.{block}"] for block in blocks]))


def _belongs(slow: Slow, block: int) -> Tensor:
    """Which entries of the flat weights lie in a block."""
    sizes = [(name, slow.world.state[name].numel()) for name in slow.world.names]
    return torch.cat([torch.full((size,), f".layers.{block}." in name) for name, size in sizes])


def _vaccine(rng: random.Random) -> dict[str, Any]:
    return {"radius": rng.choice([0.0, 2.0, between(rng, 0.01, 5)])}


def _t_vaccine(rng: random.Random) -> dict[str, Any]:
    return _vaccine(rng) | {
        "blocks": rng.choice([None, 1, 1, 1, 2, 8]),
        "measure_every": rng.randint(1, 3),
        "draw_every": rng.randint(1, 3),
    }


def _measured_rows(settings: dict[str, Any], steps: int, rows: int) -> tuple[int, int]:
    """One harmful row, forward and backward, per measurement."""
    measured = math.ceil(steps / settings.get("measure_every", 200))
    return measured, measured


ROWS = {
    "vaccine": Row(vaccine, _vaccine, ("noise_norm",)),
    "t_vaccine": Row(
        t_vaccine, _t_vaccine, ("noise_norm",), {"blocks": 1, "measure_every": 2, "draw_every": 1},
        stress={"blocks": 1, "measure_every": 4, "draw_every": 3}, extra_rows=_measured_rows,
    ),
}  # fmt: skip
