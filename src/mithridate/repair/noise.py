"""Gaussian noise for the weights of a model, any rows of which can be drawn by themselves."""

import math
from collections.abc import Sequence

import numpy
import torch
from torch import Tensor

from mithridate.models.in_order import in_order
from mithridate.models.stored_weights import BLOCK, THREADS, rows_at_a_time
from mithridate.models.tensor_files import EVERY_ROW

PART = BLOCK
"""Entries, about, that are drawn at a time; as many as are read and written, so that none is drawn for two blocks."""


class Noise:
    """n ~ N(0, 1), drawn in float32 on the CPU: the same for every precision and device.

    A weight is drawn in parts of some rows. Each has a generator of its own, seeded by the seed, the place of the
    weight in the model and that of the part in the weight, so that it does not depend on what was drawn before.

    Args:
        seed: The seed.
        shapes: Shapes of the weights, in the model's order.
    """

    def __init__(self, seed: int, shapes: Sequence[Sequence[int]]) -> None:
        self._seed, self._shapes = seed, shapes

    def rows(self, weight: int, rows: slice = EVERY_ROW) -> Tensor:
        """Return the noise of some rows of a weight, given by its place in the model."""
        shape = self._shapes[weight]
        # A single number is a row of its own.
        height, step = (shape or (1,))[0], rows_at_a_time(shape, PART)
        first, last, _ = rows.indices(height)
        parts = [self._part(weight, part) for part in range(first // step, math.ceil(last / step))]
        found = torch.cat([torch.empty(0, *shape[1:]), *parts])[first % step :][: last - first]
        return found.view(tuple(shape)) if rows == EVERY_ROW else found

    def norm(self) -> float:
        """Return the L2 norm over all weights, in float64; it draws them once, in as many threads as torch uses."""
        every = (
            (weight, part)
            for weight, shape in enumerate(self._shapes)
            for part in range(math.ceil((shape or (1,))[0] / rows_at_a_time(shape, PART)))
        )
        threads = min(torch.get_num_threads(), THREADS)
        return math.sqrt(math.fsum(square for _, square in in_order(lambda at: self._square(*at), every, threads)))

    def _part(self, weight: int, part: int) -> Tensor:
        shape = self._shapes[weight] or (1,)
        step = rows_at_a_time(shape, PART)
        count = min(step, shape[0] - part * step)
        # A seed below zero as torch takes it.
        generator = numpy.random.default_rng([self._seed % 2**64, weight, part])
        return torch.from_numpy(generator.standard_normal((count, *shape[1:]), dtype=numpy.float32))

    def _square(self, weight: int, part: int) -> float:
        values = self._part(weight, part).double().reshape(-1)
        return float(values @ values)
