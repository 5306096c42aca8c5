"""Comparisons of many numbers: on a CPU by numpy, which makes their booleans several times as fast as torch."""

import numpy
import torch
from torch import Tensor


def count_nonzero(values: Tensor) -> int:
    """Return how many entries are not zero; NaN is not."""
    if values.device.type != "cpu":
        return int(torch.count_nonzero(values))
    return int(numpy.count_nonzero(values.detach().numpy() != 0))


def at_least(values: Tensor, limits: Tensor) -> Tensor:
    """Return which entries are no less than a limit that is broadcast over them."""
    if values.device.type != "cpu":
        return values >= limits
    return torch.from_numpy(values.detach().numpy() >= limits.detach().numpy())
