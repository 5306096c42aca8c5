"""RepNoise."""

import random
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.matrix.row import Row, between
from tests.matrix.worlds import Data, Slow, pairs


def repnoise(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: dict[str, Any]) -> Tensor:
    """∇[f + β·mean_l MMD²(harmful MLP outputs on answers, noise) − α·log h̄]."""
    w = w.clone().requires_grad_(True)
    net, state = slow.world.slow, slow._state(w)
    layers = range(net.layers)
    nll, tokens, samples, noise = torch.zeros((), dtype=torch.float64), 0, [], []
    for row in data.harmful:
        net.nll(state, row.prompt, row.answer)
        first, tokens = len(row.prompt), tokens + len(row.answer)
        samples.append([net.outputs[f"mlp.{layer}"][first:] for layer in layers])
        noise.append(_noise(data, row.position, len(layers), len(row.answer), samples[-1][0].shape[1]))
        for layer in layers:
            logs = torch.log_softmax(net.read(state, net.outputs[f"block.{layer}"]), dim=1)
            for place, token in enumerate(row.answer, start=first):
                nll = nll - logs[place - 1, token] / len(layers)
    mmd = sum(_mmd([s[layer] for s in samples], [n[layer] for n in noise]) for layer in layers) / len(layers)
    loss = settings["noise"] * mmd - settings["ascent"] * torch.log(nll / tokens)
    return slow.gradient(w.detach(), pairs(data.main)) + torch.autograd.grad(loss, w)[0]


def _noise(data: Data, position: int, layers: int, tokens: int, features: int) -> Tensor:
    seed = zlib.crc32(f"{data.clock.seed}/{data.clock.number}/noise {position}".encode())
    return torch.randn((layers, tokens, features), generator=torch.Generator().manual_seed(seed)).double()


def _mmd(samples: Sequence[Tensor], noise: Sequence[Tensor]) -> Tensor:
    """Mean kernel within samples and within noise, less twice the mean across; widths are not differentiated."""
    longest = max(sample.numel() for sample in samples)
    points = []
    for matrix in [*samples, *noise]:
        flat = matrix.reshape(-1)
        points.append(torch.cat([flat, torch.zeros(longest - flat.numel(), dtype=torch.float64)]))
    count, rows = len(points), len(samples)
    distances = [[((a - b) ** 2).sum() for b in points] for a in points]
    mean = float(sum(distance.detach() for line in distances for distance in line)) / (count * (count - 1))
    total = torch.zeros((), dtype=torch.float64)
    for i in range(count):
        for j in range(count):
            sign = 1 if (i < rows) == (j < rows) else -1
            for width in (mean / 4, mean / 2, mean, 2 * mean, 4 * mean):
                total = total + sign * torch.exp(-distances[i][j] / width) / rows**2
    return total


def _repnoise(rng: random.Random) -> dict[str, Any]:
    return {
        "noise": rng.choice([0.0, 0.001, between(rng, 0.01, 20)]),
        "ascent": rng.choice([0.0, 1.0, between(rng, 0.01, 3)]),
    }


ROWS = {
    "repnoise": Row(
        repnoise, _repnoise, ("mmd", "harmful_loss", "extra_gradient_norm"), stress={"noise": 3.0, "ascent": 0.5},
    ),
}  # fmt: skip
