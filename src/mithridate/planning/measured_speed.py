"""How fast this machine works, by a few passes of a model with random weights."""

import time
from statistics import median
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from mithridate.errors import UsageError
from mithridate.experiment.recipe_parts import LoraSettings
from mithridate.models.loading import device
from mithridate.planning.device_speed import DeviceSpeed
from mithridate.planning.pass_work import PassWork, adapted
from mithridate.planning.row_tokens import Padded

LARGEST = 2_000_000_000
"""Weights of the largest model that is made to be measured."""
REPEATS = 5


def measured_speed(
    config: Any, dtype: torch.dtype, lora: LoraSettings | None, work: PassWork, rows: int, tokens: int
) -> DeviceSpeed:
    """Return the operations per second of forward and backward passes over a batch.

    Args:
        config: The model's settings.
        dtype: Type of its weights.
        lora: The adapter; None to train all weights.
        work: What a row's passes cost.
        rows: Rows of the batch.
        tokens: Tokens of each.

    Raises:
        UsageError: If the model is too large to be made for this.
    """
    if work.parameters > LARGEST:
        raise UsageError(
            f"a model of {work.parameters / 1e9:.1f} billion weights is too large to be made for a measurement; "
            "give device or flops_per_second"
        )
    place = device()
    # The caller's random numbers stay as they are.
    with torch.random.fork_rng(), torch.device(place):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa").train()
        model = model if lora is None else adapted(model, lora, place)
        ids = torch.randint(0, config.vocab_size, (rows, tokens))
    taken = [_seconds(model, ids, place) for _ in range(REPEATS + 1)][1:]  # the first one makes buffers
    length = Padded(tokens, tokens**2)
    flops = rows * (work.forward.at(length) + work.backward.at(length))
    speed = flops / median(taken)
    return DeviceSpeed(f"this machine, measured at {speed:.3g} operations per second", speed, speed)


def _seconds(model: Any, ids: torch.Tensor, place: str) -> float:
    model.zero_grad()
    start = time.perf_counter()
    model(input_ids=ids, labels=ids).loss.backward()
    if place == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
