"""The vector every defense computes with: one tensor per trainable parameter."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mithridate.errors import DefenseError


class Gradient:
    """A vector over the trainable parameters, with the arithmetic of the papers' equations.

    Every process holds the whole vector (gradients are summed over processes before they get here), so norms
    and dot products need no communication.

    Attributes:
        tensors: One tensor per trainable parameter, in the order of ``Weights.parameters``.
    """

    __slots__ = ("tensors",)

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = list(tensors)

    def __add__(self, other: "Gradient") -> "Gradient":
        return Gradient(torch._foreach_add(self.tensors, other.tensors))

    def __sub__(self, other: "Gradient") -> "Gradient":
        return Gradient(torch._foreach_sub(self.tensors, other.tensors))

    def __mul__(self, scale: float) -> "Gradient":
        return Gradient(torch._foreach_mul(self.tensors, scale))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> "Gradient":
        return Gradient(torch._foreach_div(self.tensors, divisor))

    def __neg__(self) -> "Gradient":
        return Gradient(torch._foreach_neg(self.tensors))

    def dot(self, other: "Gradient") -> float:
        """Inner product over all parameters (each tensor's in float32, their sum in float64)."""
        parts = [torch.dot(_flat(a), _flat(b)).double() for a, b in zip(self.tensors, other.tensors, strict=True)]
        return float(torch.stack(parts).sum())

    def norm(self) -> float:
        """L2 norm over all parameters together."""
        return float(torch.stack([n.double() for n in _norms(self.tensors)]).square().sum().sqrt())

    def unit(self) -> "Gradient":
        """This vector divided by its L2 norm.

        Raises:
            DefenseError: If the norm is zero or not finite, since no direction exists then.
        """
        norm = self.norm()
        if not math.isfinite(norm) or norm == 0.0:
            raise DefenseError(
                f"a gradient with norm {norm} has no direction, so the defense cannot act; "
                "check that its stream has trained tokens and that the loss is finite"
            )
        return self / norm


def _norms(tensors: list[Tensor]) -> Sequence[Tensor]:
    return torch._foreach_norm([t if t.dtype is torch.float64 else t.float() for t in tensors])


def _flat(tensor: Tensor) -> Tensor:
    flat = tensor.reshape(-1)
    return flat if flat.dtype is torch.float64 else flat.float()
