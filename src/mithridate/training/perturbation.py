"""A vector over the activations of a model's layers."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from mithridate.errors import DefenseError


class Perturbation:
    """A vector over activations, with the arithmetic of the papers' equations.

    Each process holds the share of its own rows; norms are taken over all of them.

    Args:
        parts: For each micro-batch one tensor per module, (rows, tokens, features).
        places: Which modules of the part these are.
        processes: Number of processes that share the batch.
        device: Where sums over processes are made.
    """

    def __init__(
        self, parts: Sequence[Sequence[Tensor]], places: Sequence[int], processes: int = 1, device: Any = "cpu"
    ) -> None:
        self.parts = [list(part) for part in parts]
        self.places = list(places)
        self.processes = processes
        self.device = device

    def _like(self, parts: Sequence[Sequence[Tensor]]) -> "Perturbation":
        return Perturbation(parts, self.places, self.processes, self.device)

    def __mul__(self, scale: float) -> "Perturbation":
        return self._like([[scale * tensor for tensor in part] for part in self.parts])

    __rmul__ = __mul__

    def norms(self) -> list[float]:
        """L2 norm of each module's share, over all rows of all micro-batches and processes."""
        squares = torch.zeros(len(self.places), dtype=torch.float64, device=self.device)
        for part in self.parts:
            squares += torch.stack([tensor.double().square().sum() for tensor in part])
        if self.processes > 1:
            distributed.all_reduce(squares)
        return [math.sqrt(square) for square in squares.tolist()]

    def norm(self) -> float:
        """L2 norm over all modules together."""
        return math.sqrt(sum(norm**2 for norm in self.norms()))

    def unit(self) -> "Perturbation":
        """This vector divided by its L2 norm.

        Raises:
            DefenseError: If the norm is zero or not finite, since no direction exists then.
        """
        norm = self.norm()
        if not math.isfinite(norm) or norm == 0.0:
            raise DefenseError(
                f"a gradient over activations with norm {norm} has no direction; "
                "check that its stream has trained tokens and that the loss is finite"
            )
        return (1 / norm) * self
