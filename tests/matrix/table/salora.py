"""SaLoRA."""

import random
from typing import Any

import torch
from torch import Tensor

from tests.matrix.row import Row
from tests.matrix.worlds import Data, Slow, pairs


def salora(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: dict[str, Any]) -> Tensor:
    """∇L at w with every B replaced by (I − V·Vᵀ)·B."""
    if settings["directions"] and "spans" not in memory:
        memory["spans"] = _spans(slow, w, data, settings)
    moving = w.clone().requires_grad_(True)
    through = _projected(slow, moving, memory.get("spans", {}))
    at = through.detach()
    return torch.autograd.grad(through, moving, slow.gradient(at, pairs(data.main)))[0]


def ends(slow: Slow, w: Tensor, settings: dict[str, Any], memory: dict[str, Any]) -> Tensor:
    """B ← (I − V·Vᵀ)·B."""
    return _projected(slow, w, memory.get("spans", {}))


def _spans(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any]) -> dict[str, Tensor]:
    """V of every adapted layer: top left singular vectors of W·X, X its inputs on all tokens of the safe rows."""
    net, state = slow.world.slow, slow._state(w)
    net.inputs = {}
    for row in [*data.safe, *data.safer][: settings["rows"]]:
        net.logits(state, row.prompt + row.answer)
    found = {}
    for layer in [name.removesuffix(".lora_B") for name in net.inputs if name.endswith(".lora_B")]:
        outputs = state[f"{layer}.weight"] @ torch.cat(net.inputs[layer]).T
        found[layer] = torch.linalg.svd(outputs)[0][:, : settings["directions"]]
    net.inputs = None
    return found


def _projected(slow: Slow, w: Tensor, spans: dict[str, Tensor]) -> Tensor:
    state, pieces = slow._state(w), []
    for name in slow.world.names:
        values = state[name]
        v = spans.get(name.removesuffix(".lora_B.weight"))
        pieces.append((values if v is None else values - v @ (v.T @ values)).reshape(-1))
    return torch.cat(pieces)


def _salora(rng: random.Random) -> dict[str, Any]:
    return {"directions": rng.choice([0, 1, 1, 1]), "rows": rng.randint(1, 8), "task_rank": 0}


def _once(settings: dict[str, Any], steps: int, rows: int) -> tuple[int, int]:
    return settings["rows"] + rows, 0


SMALL = {"directions": 2, "rows": 8, "task_rank": 5}

ROWS = {
    "salora": Row(
        salora, _salora, ("directions",), default=SMALL, stress=SMALL, ends=ends, extra_rows=_once,
        needs_lora=lambda settings: settings["directions"] > 0,
    ),
}  # fmt: skip
