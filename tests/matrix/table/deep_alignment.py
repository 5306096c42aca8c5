"""Deep alignment."""

import random
import zlib
from typing import Any

import torch
from torch import Tensor

from tests.matrix.row import Row
from tests.matrix.worlds import Data, Slow, pairs


def deep_alignment(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: dict[str, Any]) -> Tensor:
    """(1 − α)·∇f + α·∇(loss of refusals behind k tokens of each harmful answer)."""
    alpha, rows = settings["strength"], recovering(data, settings["depth"], settings["shallow"])
    return (1 - alpha) * slow.gradient(w, pairs(data.main)) + alpha * slow.gradient(w, rows)


def recovering(data: Data, depth: int, shallow: float) -> list[tuple[list[int], list[int]]]:
    """Harmful prompts with the first k tokens of their answers, each before the refusal of its position."""
    seed = zlib.crc32(f"{data.clock.seed}/{data.clock.number}/depth of alignment".encode())
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for row in data.harmful:
        coin, share = torch.rand(2, generator=generator).tolist()
        most = min(depth, len(row.answer) - 1)
        k = 0 if coin < shallow or most == 0 else 1 + int(share * most)
        rows.append((row.prompt + row.answer[:k], data.refusals[row.position % len(data.refusals)]))
    return rows


def _deep_alignment(rng: random.Random) -> dict[str, Any]:
    return {
        "strength": rng.choice([0.0, 0.2, rng.uniform(0, 0.99)]),
        "depth": rng.choice([1, 2, 100]),
        "shallow": rng.choice([0.0, 0.5, 1.0]),
    }


ROWS = {"deep_alignment": Row(deep_alignment, _deep_alignment, ("extra_gradient_norm",), stress={"shallow": 0.2})}
