"""Figures of tokens that are made of numbers over the whole vocabulary, without holding these of a whole batch."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

NUMBERS_AT_ONCE = 2**24
"""Numbers of one tensor over tokens and vocabulary: 64 MiB in float32."""


def by_tokens(measure: Callable[..., Tensor], numbers: int, *states: Tensor) -> Tensor:
    """Return a measure of each token, a few tokens at a time.

    What it makes on the way is forgotten and made again in the backward pass. Where a batch is small all tokens are
    measured at once, and nothing is made twice.

    Args:
        measure: From tensors (tokens, …) to (tokens, …), each token by itself, without dropout.
        numbers: How many numbers it makes for one token.
        *states: What it is called with, each (tokens, …).
    """
    size = max(1, NUMBERS_AT_ONCE // numbers)
    if len(states[0]) <= size:
        return measure(*states)
    parts = zip(*(torch.split(state, size) for state in states), strict=True)
    found = [checkpoint(measure, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return torch.cat(found)
