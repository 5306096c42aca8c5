"""SBR."""

import random
from typing import Any

import torch
from torch import Tensor

from tests.matrix.row import Row, between
from tests.matrix.worlds import Data, Slow, pairs


def sbr(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: dict[str, Any]) -> Tensor:
    """∇[L(w) + λ·mean over anchors and features of (h(w) − h(w_0))²], h behind the last norm at the prompt's end."""
    harmful = [row for batch in [data.harmful, *data.later] for row in batch]
    prompts = [row.prompt for row in harmful[: settings["anchors"]]]
    moving = w.clone().requires_grad_(True)
    drift = torch.stack([_state_at_end(slow, moving, p) - _state_at_end(slow, slow.start, p) for p in prompts])
    return (
        slow.gradient(w, pairs(data.main)) + settings["strength"] * torch.autograd.grad(drift.pow(2).mean(), moving)[0]
    )


def _state_at_end(slow: Slow, w: Tensor, prompt: list[int]) -> Tensor:
    """(features,) of the prompt alone: what follows cannot change it."""
    slow.world.slow.logits(slow._state(w), prompt)
    return slow.world.slow.outputs["final"][-1]


def _sbr(rng: random.Random) -> dict[str, Any]:
    return {"strength": rng.choice([0.0, 50.0, between(rng, 0.1, 100)]), "anchors": rng.randint(1, 8)}


def _anchors(settings: dict[str, Any], steps: int, rows: int) -> tuple[int, int]:
    anchors = settings.get("anchors", 8)
    return (steps + 1) * anchors, steps * anchors


ROWS = {"sbr": Row(sbr, _sbr, extra_rows=_anchors)}
