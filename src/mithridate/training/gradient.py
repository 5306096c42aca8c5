"""The vector every defense computes with: one tensor per trainable parameter."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mithridate.errors import DefenseError, Diverged
from mithridate.training.processes import Processes
from mithridate.training.row_weights import RowShares


class Gradient:
    """A vector over the trainable parameters, with the arithmetic of the papers' equations.

    Every process holds the whole vector (gradients are summed over processes before they get here), so norms
    and dot products need no communication. Under FSDP2 each holds its shards; norms and dot products are then summed
    over the processes in one message, and all of them must ask for one at the same time.

    What was found while a gradient was taken goes with it through the arithmetic: a sum leaves alone what all its
    terms leave alone, and has the row weights of the one term that has some.

    Attributes:
        tensors: One tensor per trainable parameter, in the order of ``Weights.parameters``.
        frozen: For each parameter whether the optimizer must leave it alone; None if it moves all.
        row_shares: Weights of the rows, for a row-weighted gradient of the rows that are trained on; None otherwise.
        holders: The processes that each hold a shard of the vector; None where every process holds all of it.
    """

    __slots__ = ("frozen", "holders", "row_shares", "tensors")

    def __init__(
        self,
        tensors: Sequence[Tensor],
        frozen: Sequence[bool] | None = None,
        row_shares: RowShares | None = None,
        holders: Processes | None = None,
    ) -> None:
        self.tensors = list(tensors)
        self.frozen = None if frozen is None else tuple(frozen)
        self.row_shares = row_shares
        self.holders = holders

    def __add__(self, other: "Gradient") -> "Gradient":
        return self._with(torch._foreach_add(self.tensors, other.tensors), other)

    def __sub__(self, other: "Gradient") -> "Gradient":
        return self._with(torch._foreach_sub(self.tensors, other.tensors), other)

    def __mul__(self, scale: float) -> "Gradient":
        return self._with(torch._foreach_mul(self.tensors, scale))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> "Gradient":
        return self._with(torch._foreach_div(self.tensors, divisor))

    def __neg__(self) -> "Gradient":
        return self._with(torch._foreach_neg(self.tensors))

    def dot(self, other: "Gradient") -> float:
        """Return the inner product over all parameters (each tensor's in float32, their sum in float64)."""
        # One number per tensor, and those in float64: millions of small squares would be lost in a float32 sum.
        parts = [torch.dot(_flat(a), _flat(b)).double() for a, b in zip(self.tensors, other.tensors, strict=True)]
        return float(self._over_all(torch.stack(parts).sum(), other))

    def norm(self) -> float:
        """Return the L2 norm over all parameters together."""
        return float(self._over_all(torch.stack([n.double() for n in _norms(self.tensors)]).square().sum()).sqrt())

    def unit(self) -> "Gradient":
        """Return this vector divided by its L2 norm.

        Raises:
            DefenseError: If the norm is zero or not finite, since no direction exists then.
        """
        norm = self.norm()
        require_direction(norm)
        return self / norm

    def _with(self, tensors: Sequence[Tensor], other: "Gradient | None" = None) -> "Gradient":
        if other is None:
            return Gradient(tensors, self.frozen, self.row_shares, self.holders)
        frozen, row_shares = _in_both(self.frozen, other.frozen), _of_either(self.row_shares, other.row_shares)
        return Gradient(tensors, frozen, row_shares, self.holders or other.holders)

    def _over_all(self, mine: Tensor, other: "Gradient | None" = None) -> Tensor:
        """The sum of what this process has over its part of the vector and what others have over theirs."""
        # A vector that a defense kept as bare tensors does not say that it is split; its partner does.
        holders = self.holders or (other.holders if other is not None else None)
        return mine if holders is None else holders.sum(mine)


def require_direction(norm: float) -> None:
    """Refuse the norm of a gradient that points nowhere.

    Raises:
        DefenseError: If it is zero or not finite.
    """
    if not math.isfinite(norm) or norm == 0.0:
        raise (DefenseError if norm == 0.0 else Diverged)(
            f"a gradient with norm {norm} has no direction, so the defense cannot act; "
            "check that its stream has trained tokens and that the loss is finite"
        )


def _in_both(first: Sequence[bool] | None, second: Sequence[bool] | None) -> list[bool] | None:
    if first is None or second is None:
        return None
    # A sum moves what any of its terms moves.
    return [a and b for a, b in zip(first, second, strict=True)]


def _of_either(first: RowShares | None, second: RowShares | None) -> RowShares | None:
    if first is not None and second is not None and first is not second:
        raise DefenseError(
            "two gradients with row weights of their own are combined, so that no row has one weight; "
            "take one of them as Gradient(g.tensors), without its row weights"
        )
    return second if first is None else first


def _norms(tensors: list[Tensor]) -> Sequence[Tensor]:
    return torch._foreach_norm([t if t.dtype is torch.float64 else t.float() for t in tensors])


def _flat(tensor: Tensor) -> Tensor:
    flat = tensor.reshape(-1)
    return flat if flat.dtype is torch.float64 else flat.float()
