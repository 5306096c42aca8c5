"""A vector over the activations of a model's layers."""

import math
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from mithridate.errors import DefenseError, Diverged
from mithridate.training.processes import Processes


class Perturbation:
    """A vector over activations, with the arithmetic of the papers' equations.

    Each process holds the share of its own rows; norms are taken over all of them.

    Args:
        parts: For each micro-batch one tensor per layer, (rows, tokens, features).
        layers: Numbers of these layers.
        processes: The processes that share the batch; by default this one alone.

    Attributes:
        taken_on: What tells the rows it was taken on from others; None where any rows will do.
    """

    def __init__(
        self, parts: Sequence[Sequence[Tensor]], layers: Sequence[int], processes: Processes | None = None
    ) -> None:
        self.taken_on: Hashable | None = None
        self.parts = [list(part) for part in parts]
        self.layers = list(layers)
        self.processes = processes or Processes()

    def __mul__(self, scale: float) -> "Perturbation":
        scaled = Perturbation([[scale * tensor for tensor in part] for part in self.parts], self.layers, self.processes)
        scaled.taken_on = self.taken_on
        return scaled

    __rmul__ = __mul__

    def norms(self) -> list[float]:
        """Return the L2 norm of each layer's share, over all rows of all micro-batches and processes."""
        squares = torch.zeros(len(self.layers), dtype=torch.float64, device=self.processes.device)
        for part in self.parts:
            # In float64: squares of many small entries.
            squares += torch.stack([tensor.double().square().sum() for tensor in part])
        return [math.sqrt(square) for square in self.processes.sum(squares).tolist()]

    def norm(self) -> float:
        """Return the L2 norm over all layers together."""
        return math.sqrt(sum(norm**2 for norm in self.norms()))

    def unit(self) -> "Perturbation":
        """Return this vector divided by its L2 norm.

        Raises:
            DefenseError: If the norm is zero or not finite, since no direction exists then.
        """
        norm = self.norm()
        if not math.isfinite(norm) or norm == 0.0:
            raise (DefenseError if norm == 0.0 else Diverged)(
                f"a gradient over activations with norm {norm} has no direction; "
                "check that its stream has trained tokens and that the loss is finite"
            )
        return (1 / norm) * self
