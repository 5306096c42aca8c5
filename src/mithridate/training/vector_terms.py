"""Sums and multiples of vectors over the weights, kept as they are written until their value is needed.

Each such vector takes as much memory as the weights. So ``a + λ·(b − c)`` makes none: it stays an expression, which is
computed a few tensors at a time, and where it can into the memory of one of its own terms that nothing else needs any
longer. Each operation is rounded by itself and in the order in which it is written, so that no bit depends on when or
where the value is computed.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from weakref import WeakSet

import torch
from torch import Tensor

from mithridate.models.modes import is_half

SHARE = 32
"""An expression is computed in pieces of about this share of it, which is the room that it takes."""


class Access(Enum):
    """Who may write to the tensors of a vector."""

    OURS = "nobody but this arithmetic: they may be overwritten once one vector alone needs them"
    FIXED = "nobody: what is made of them may be computed later"
    LENT = "whoever lent them: what is made of them must be computed at once"


@dataclass(eq=False, slots=True)
class Stored:
    """A vector in memory.

    Attributes:
        tensors: One tensor per trainable parameter.
        access: Who may write to them.
        users: The objects whose expressions it is a term of.
    """

    tensors: list[Tensor]
    access: Access
    users: WeakSet[object] = field(default_factory=WeakSet)


@dataclass(frozen=True, eq=False, slots=True)
class Scaled:
    """Vector · factor, or vector / factor."""

    vector: "Vector"
    factor: float
    divides: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Sum:
    """First + second, or first − second."""

    first: "Vector"
    second: "Vector"
    minus: bool = False


Vector = Stored | Scaled | Sum
"""An expression."""


def terms(vector: Vector) -> list[Stored]:
    """Return the stored vectors of an expression, as often as they occur in it."""
    if isinstance(vector, Stored):
        return [vector]
    if isinstance(vector, Scaled):
        return terms(vector.vector)
    return terms(vector.first) + terms(vector.second)


def spare_terms(vector: Vector, user: object) -> list[Stored]:
    """Return the terms that only one user needs, and in one place, so that they may be overwritten with a result.

    Args:
        vector: The expression.
        user: Whose expression it is.
    """
    every = terms(vector)
    return [t for t in every if t.access is Access.OURS and every.count(t) == 1 and set(t.users) <= {user}]


def computed(vector: Vector, spare: Collection[Stored] = ()) -> list[Tensor]:
    """Return the value of an expression, in new memory or in that of spare terms, which have lost their own then."""
    found: list[Tensor] = []
    for piece in _pieces(terms(vector)[0].tensors):
        values, is_new = _value(vector, piece, spare)
        found += values if is_new else [value.clone() for value in values]
    return found


def values(*vectors: Vector) -> Iterator[tuple[Sequence[Tensor], ...]]:
    """Go through the tensors of expressions, piece by piece and side by side; nothing is kept of them."""
    if all(isinstance(vector, Stored) for vector in vectors):
        # Nothing has to be computed, so nothing has to be cut.
        yield tuple(vector.tensors for vector in vectors if isinstance(vector, Stored))
        return
    for piece in _pieces(terms(vectors[0])[0].tensors):
        yield tuple(_value(vector, piece, ())[0] for vector in vectors)


def pieces_of(tensors: Sequence[Tensor], size: float) -> Iterator[slice]:
    """Cut a list of tensors into slices of at least so many bytes each, but for the last."""
    start, held = 0, 0
    for place, tensor in enumerate(tensors, 1):
        held += tensor.numel() * tensor.element_size()
        if held >= size or place == len(tensors):
            yield slice(start, place)
            start, held = place, 0


def scale(tensors: list[Tensor], factor: float) -> None:
    """Multiply tensors in place, each product rounded once to what it is stored in."""
    # On CPUs this kernel rounds the factor too where it multiplies half precision in place: by up to 0.2 % in bfloat16,
    # and all entries alike. Others do not.
    if any(tensor.is_cpu and is_half(tensor) for tensor in tensors):
        for tensor in tensors:
            tensor.mul_(factor)
    elif tensors:
        torch._foreach_mul_(tensors, factor)


def _pieces(tensors: Sequence[Tensor]) -> Iterator[slice]:
    return pieces_of(tensors, sum(tensor.numel() * tensor.element_size() for tensor in tensors) / SHARE)


def _value(vector: Vector, piece: slice, spare: Collection[Stored]) -> tuple[list[Tensor], bool]:
    """A piece of an expression's value, and whether it may be written to."""
    if isinstance(vector, Stored):
        return vector.tensors[piece], vector in spare
    if isinstance(vector, Scaled):
        return _scaled(*_value(vector.vector, piece, spare), vector), True
    first, is_new = _value(vector.first, piece, spare)
    second, other_is_new = _value(vector.second, piece, spare)
    if is_new and _widest(first, second):
        (torch._foreach_sub_ if vector.minus else torch._foreach_add_)(first, second)
        return first, True
    if other_is_new and _widest(second, first):
        if vector.minus:
            torch._foreach_neg_(second)
        torch._foreach_add_(second, first)
        return second, True
    return list((torch._foreach_sub if vector.minus else torch._foreach_add)(first, second)), True


def _scaled(inner: list[Tensor], is_new: bool, by: Scaled) -> list[Tensor]:
    if not is_new:
        return list((torch._foreach_div if by.divides else torch._foreach_mul)(inner, by.factor))
    (torch._foreach_div_ if by.divides else scale)(inner, by.factor)
    return inner


def _widest(into: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether a sum with others is of the very type and shape of the tensors that it is to be written into."""
    return len(into) == len(other) and all(
        a.dtype == torch.promote_types(a.dtype, b.dtype) and a.shape == b.shape
        for a, b in zip(into, other, strict=True)
    )
