"""The models that a tuned model came from, and everything else a repair may ask for."""

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tests.helpers import tiny

LORA_SCALE = 2.0
"""Scale of the adapter of `tiny.lora`."""


def shaken(model: nn.Module, seed: int, std: float) -> Any:
    """A copy with noise on every weight."""
    generator = torch.Generator().manual_seed(seed)
    found = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(std * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return found


def origins(model: nn.Module, rng: random.Random) -> dict[str, Any]:
    """Random models of the same kind, each with an adapter of its own or with none at all."""
    found = {}
    for name in ("aligned", "base"):
        found[name] = shaken(model, rng.randrange(10**6), 0.2)
        if hasattr(model, "merge_and_unload") and rng.random() < 0.5:
            found[name] = found[name].merge_and_unload()
    return found


def everything(rows: int = 32) -> dict[str, Any]:
    """Rows of all streams, and the models before the runs of `tests.helpers.training`."""
    return {
        "harmful": tiny.rows("harmful", rows),
        "safe": tiny.rows("safe", rows),
        "aligned": tiny.model(),
        "base": before_alignment(tiny.model()),
    }


def before_alignment(model: nn.Module) -> Any:
    """A copy in which every matrix lacks an update of rank one, as alignment with a small adapter would give it."""
    generator = torch.Generator().manual_seed(7)
    found = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in found.parameters():
            if parameter.dim() == 2:
                left, right = (torch.randn(size, generator=generator) for size in parameter.shape)
                parameter.sub_(0.05 * torch.outer(left, right))
    return found


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Put all weights back after the block."""
    saved = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    try:
        yield
    finally:
        model.load_state_dict(saved)
