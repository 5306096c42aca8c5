"""The vector every defense computes with: one tensor per trainable parameter."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mithridate.errors import DefenseError, Diverged
from mithridate.training.processes import Processes
from mithridate.training.row_weights import RowShares
from mithridate.training.vector_terms import Access, Scaled, Stored, Sum, Vector, computed, spare_terms, terms, values

LONGEST = 8
"""Terms of a sum after which it is computed, so that a loop that adds up does not keep all that it added."""


class Gradient:
    """A vector over the trainable parameters, with the arithmetic of the papers' equations.

    Every process holds the whole vector (gradients are summed over processes before they get here), so norms
    and dot products need no communication. Under FSDP2 each holds its shards; norms and dot products are then summed
    over the processes in one message, and all of them must ask for one at the same time.

    Each vector takes as much memory as the weights, so sums and multiples are computed when their value is needed, in
    the memory of terms that nothing else holds by then. ``+=`` and ``-=`` compute at once and, as with tensors, change
    the vector under each of its names; what was made of it before does not change. Tensors that a vector was made of
    from outside are never overwritten.

    What was found while a gradient was taken goes with it through the arithmetic: a sum leaves alone what all its
    terms leave alone, and has the row weights of the one term that has some.

    Args:
        tensors: One tensor per trainable parameter, in the order of ``Weights.parameters``.
        frozen: As the attribute.
        row_shares: As the attribute.
        holders: As the attribute.

    Attributes:
        frozen: For each parameter whether the optimizer must leave it alone; None if it moves all.
        row_shares: Weights of the rows, for a row-weighted gradient of the rows that are trained on; None otherwise.
        holders: The processes that each hold a shard of the vector; None where every process holds all of it.
    """

    __slots__ = ("__weakref__", "_vector", "frozen", "holders", "row_shares")

    def __init__(
        self,
        tensors: Sequence[Tensor],
        frozen: Sequence[bool] | None = None,
        row_shares: RowShares | None = None,
        holders: Processes | None = None,
    ) -> None:
        self.frozen = None if frozen is None else tuple(frozen)
        self.row_shares = row_shares
        self.holders = holders
        self._vector: Vector
        self._hold(Stored(list(tensors), Access.LENT))

    @classmethod
    def owning(cls, tensors: Sequence[Tensor], holders: Processes | None = None) -> "Gradient":
        """Return the vector of tensors that nobody else uses from here on, so that it may be computed with in place."""
        return cls._of(Stored(list(tensors), Access.OURS), None, None, holders)

    @classmethod
    def reading(cls, tensors: Sequence[Tensor], holders: Processes | None = None) -> "Gradient":
        """Return the vector of tensors that are not written to as long as it is used."""
        return cls._of(Stored(list(tensors), Access.FIXED), None, None, holders)

    @property
    def tensors(self) -> list[Tensor]:
        """One tensor per trainable parameter, in the order of ``Weights.parameters``; they may be written to."""
        found = self._stored()
        if found.access is not Access.LENT:
            # From here on the caller may write to them, which must not change what others make of the same term.
            alone = found.access is Access.OURS and set(found.users) <= {self}
            found = Stored(found.tensors if alone else [t.clone() for t in found.tensors], Access.LENT)
            self._hold(found)
        return found.tensors

    def kept(self) -> list[Tensor]:
        """Return its tensors to be kept and read later; nobody may write to them any longer."""
        found = self._stored()
        if found.access is Access.LENT:
            found = Stored([t.clone() for t in found.tensors], Access.FIXED)
            self._hold(found)
        found.access = Access.FIXED
        return found.tensors

    def add_to(self, tensors: Sequence[Tensor]) -> None:
        """Add this vector to tensors in place, without a copy of it."""
        _require_same_weights(terms(self._vector)[0].tensors, tensors)
        done = 0
        for (found,) in values(self._vector):
            torch._foreach_add_(list(tensors[done : done + len(found)]), list(found))
            done += len(found)

    def __add__(self, other: "Gradient") -> "Gradient":
        return self._with(Sum(self._term(), other._term()), other)

    def __sub__(self, other: "Gradient") -> "Gradient":
        return self._with(Sum(self._term(), other._term(), minus=True), other)

    def __mul__(self, scale: float) -> "Gradient":
        return self._with(Scaled(self._term(), float(scale)))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> "Gradient":
        return self._with(Scaled(self._term(), float(divisor), divides=True))

    def __neg__(self) -> "Gradient":
        return self._with(Scaled(self._term(), -1.0))

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy that the terms do not know of would change when they are overwritten.
        return Gradient, (self.tensors, self.frozen, self.row_shares, self.holders)

    def __iadd__(self, other: "Gradient") -> "Gradient":
        return self._become(self + other)

    def __isub__(self, other: "Gradient") -> "Gradient":
        return self._become(self - other)

    def dot(self, other: "Gradient") -> float:
        """Return the inner product over all parameters (each tensor's in float32, their sum in float64)."""
        vectors = self._term(), other._term()
        _require_same_weights(*(terms(vector)[0].tensors for vector in vectors))
        # One number per tensor, and those in float64: millions of small squares would be lost in a float32 sum.
        parts = [
            torch.dot(_flat(a), _flat(b)).double()
            for mine, theirs in values(*vectors)
            for a, b in zip(mine, theirs, strict=True)
        ]
        return float(self._over_all(torch.stack(parts).sum(), other))

    def norm(self) -> float:
        """Return the L2 norm over all parameters together."""
        parts = [norm.double() for (tensors,) in values(self._term()) for norm in _norms(tensors)]
        return float(self._over_all(torch.stack(parts).square().sum()).sqrt())

    def unit(self) -> "Gradient":
        """Return this vector divided by its L2 norm.

        Raises:
            DefenseError: If the norm is zero or not finite, since no direction exists then.
        """
        norm = self.norm()
        require_direction(norm)
        return self / norm

    @classmethod
    def _of(
        cls,
        vector: Vector,
        frozen: Sequence[bool] | None,
        row_shares: RowShares | None,
        holders: Processes | None,
    ) -> "Gradient":
        made = cls((), frozen, row_shares, holders)
        made._hold(vector)
        return made

    def _hold(self, vector: Vector) -> None:
        if hasattr(self, "_vector"):
            for term in terms(self._vector):
                term.users.discard(self)
        for term in terms(vector):
            term.users.add(self)
        self._vector = vector

    def _term(self) -> Vector:
        """Return the expression as a term of another: computed where that needs no memory, or where it grew long."""
        if not isinstance(self._vector, Stored):
            spare = spare_terms(self._vector, self)
            if spare or len(terms(self._vector)) > LONGEST:
                vector = self._vector
                # Whatever fails midway has overwritten a part of the terms: it must not leave them as a value.
                self._hold(Stored([], Access.LENT))
                self._hold(Stored(computed(vector, spare), Access.OURS))
        return self._vector

    def _stored(self) -> Stored:
        """Return the vector in memory."""
        found = self._term()
        if not isinstance(found, Stored):
            found = Stored(computed(found), Access.OURS)
            self._hold(found)
        return found

    def _become(self, value: "Gradient") -> "Gradient":
        """Take another vector's place: of what it is made, this one may then be the only holder."""
        self.frozen, self.row_shares, self.holders = value.frozen, value.row_shares, value.holders
        self._hold(value._vector)
        value._hold(Stored([], Access.LENT))
        self._stored()
        return self

    def _with(self, vector: Vector, other: "Gradient | None" = None) -> "Gradient":
        found = terms(vector)
        _require_same_weights(*(term.tensors for term in found))
        if any(term.access is Access.LENT for term in found):
            vector = Stored(computed(vector), Access.OURS)
        if other is None:
            return Gradient._of(vector, self.frozen, self.row_shares, self.holders)
        frozen, row_shares = _in_both(self.frozen, other.frozen), _of_either(self.row_shares, other.row_shares)
        return Gradient._of(vector, frozen, row_shares, self.holders or other.holders)

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


def _require_same_weights(*vectors: Sequence[Tensor]) -> None:
    shapes = [tensor.shape for tensor in vectors[0]]
    if any([tensor.shape for tensor in vector] != shapes for vector in vectors[1:]):
        raise DefenseError("two vectors over different weights are combined; take both over the same weights")


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


def _norms(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    return torch._foreach_norm([t if t.dtype is torch.float64 else t.float() for t in tensors])


def _flat(tensor: Tensor) -> Tensor:
    flat = tensor.reshape(-1)
    return flat if flat.dtype is torch.float64 else flat.float()
