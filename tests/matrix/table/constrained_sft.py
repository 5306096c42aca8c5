"""Constrained SFT."""

import random
from typing import Any

import torch
from torch import Tensor

from tests.matrix.row import Row, between
from tests.matrix.worlds import Data, Slow, pairs


def constrained_sft(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: dict[str, Any]) -> Tensor:
    """∇ of the mean over tokens of −(2/β_t)·log σ(β_t·log(π/π_0)), or of floor·(−log π) where that is steeper."""
    moving = w.clone().requires_grad_(True)
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    for prompt, answer in pairs(data.main):
        now, before = (_log_probs(slow, at, prompt, answer) for at in (moving, slow.start))
        for place in range(len(answer)):
            beta = settings["first"] if place == 0 else settings["early"] if place < 5 else settings["rest"]
            total = total + _token_loss(now[place], float(before[place]), beta, settings["floor"])
        tokens += len(answer)
    return torch.autograd.grad(total / tokens, moving)[0]


def _token_loss(log_p: Tensor, before: float, beta: float, floor: float) -> Tensor:
    """The paper's loss of one token; its slope in log π is −2·(1 − σ), and β → 0 leaves −log π."""
    if beta == 0:
        return -log_p
    ratio = log_p - before
    slope = 2 * (1 - 1 / (1 + float(torch.exp(-beta * ratio.detach()))))
    return -floor * log_p if slope < floor else 2 / beta * torch.log(1 + torch.exp(-beta * ratio))


def _log_probs(slow: Slow, w: Tensor, prompt: list[int], answer: list[int]) -> list[Tensor]:
    logits = slow.world.slow.logits(slow._state(w), prompt + answer)
    return [torch.log_softmax(logits[len(prompt) + t - 1], dim=0)[token] for t, token in enumerate(answer)]


def _constrained_sft(rng: random.Random) -> dict[str, Any]:
    return {
        "first": rng.choice([0.0, 0.5, between(rng, 0.1, 20)]),
        "early": rng.choice([0.0, 2.0, between(rng, 0.1, 20)]),
        "rest": rng.choice([0.0, 0.1, between(rng, 0.1, 20)]),
        "floor": rng.choice([0.0, 1e-3, rng.random(), 1.0]),
    }


ROWS = {"constrained_sft": Row(constrained_sft, _constrained_sft, ("token_weight",), displaces=True)}
