"""LoX, before and after fine-tuning."""

import random
from typing import Any

import torch
from torch import Tensor

from tests.helpers.slow_llama import BLOCK_LINEARS, merged
from tests.matrix.row import Row, always, between
from tests.matrix.states import State, States, linears
from tests.matrix.worlds import Data, RowIds, Slow, World, pairs


def lox_alignment(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: dict[str, Any]) -> Tensor:
    """∇f(w)."""
    return slow.gradient(w, pairs(data.main))


def extrapolated(slow: Slow, w: Tensor, settings: dict[str, Any], memory: dict[str, Any]) -> Tensor:
    """W + c·Δ_k for every matrix of a block; B + c·P_k·B where Δ = scale·B·A, with P_k onto Δ's left vectors."""
    state, start = slow._state(w), slow._state(slow.start)
    for layer in range(slow.world.slow.layers):
        for linear in BLOCK_LINEARS:
            name = f"model.layers.{layer}.{linear}"
            a, b, whole = (f"{name}.{end}" for end in ("lora_A.weight", "lora_B.weight", "weight"))
            if b in state:
                left, _, _ = _top(slow.world.slow.scale * state[b] @ state[a], settings["rank"])
                state[b] = state[b] + settings["strength"] * left @ left.T @ state[b]
            elif whole in slow.world.names:
                left, sizes, right = _top(state[whole] - start[whole], settings["rank"])
                state[whole] = state[whole] + settings["strength"] * left @ torch.diag(sizes) @ right
    return torch.cat([state[name].reshape(-1) for name in slow.world.names])


def _top(delta: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    left, sizes, right = torch.linalg.svd(delta, full_matrices=False)
    return left[:, :k], sizes[:k], right[:k]


def _lox_alignment(rng: random.Random) -> dict[str, Any]:
    return {"strength": rng.choice([0.0, 1.25, between(rng, 0.01, 3)]), "rank": rng.randint(1, 7)}


def lox(world: World, rows: list[RowIds], settings: dict[str, Any], origins: States) -> State:
    """W + c·Σ_{i ≤ k} σ_i·u_i·v_iᵀ of W_aligned − W_base."""
    found = merged(world.state, world.slow.scale)
    for name in linears(world):
        u, sigma, vt = torch.linalg.svd(origins["aligned"][name] - origins["base"][name], full_matrices=False)
        for i in range(min(settings["rank"], len(sigma))):
            found[name] = found[name] + settings["strength"] * sigma[i] * torch.outer(u[:, i], vt[i])
    return found


def _lox(rng: random.Random) -> dict[str, Any]:
    return {"strength": rng.choice([0.0, 1.25, between(rng, 0.01, 3)]), "rank": rng.randint(1, 7)}


ROWS = {
    "lox_alignment": Row(lox_alignment, _lox_alignment, ends=extrapolated, fresh_adapter=True),
    "lox": Row(lox, _lox, ("strength", "matrices"), merges=always),
}
