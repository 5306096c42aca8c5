"""What a repair actually changed, weight by weight, after rounding."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from mithridate.errors import DefenseError
from mithridate.models.decoder import layer_of
from mithridate.repair.comparisons import count_nonzero


class Change(NamedTuple):
    """What changed of some values.

    Attributes:
        entries: Number of entries whose stored value differs.
        square: ‖change‖².
    """

    entries: int
    square: float

    @property
    def finite(self) -> bool:
        """Whether all values were finite, before and after; False also where finite ones are too large to square."""
        return math.isfinite(self.square)

    @classmethod
    def between(cls, before: Tensor, stored: Tensor, *, exact: bool = False) -> "Change":
        """Compare values as they were with those that will be stored.

        Args:
            before: Values before, of at least the precision of ``stored``.
            stored: Values as they will be stored.
            exact: Whether the values before are of no more precision than those that will be stored.
        """
        difference = (stored.double() - before.double()).reshape(-1)
        # Both in the stored type: a change below its precision is none.
        entries = count_nonzero(difference if exact else stored != before.to(stored.dtype))
        return cls(entries, float(difference @ difference))


class Tally:
    """Counts changed entries and adds up their squared change.

    Attributes:
        counts: Number of entries whose stored value differs, by weight, only for weights that changed.
        squares: ‖change‖² by weight, likewise.
        figures: Other figures of a weight that a repair reports a sum of.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.squares: dict[str, float] = {}
        self.figures: dict[str, dict[str, float]] = {}

    @property
    def changed(self) -> int:
        """Number of entries whose stored value differs."""
        return sum(self.counts.values())

    def total(self, figure: str) -> float:
        """Return the sum of a figure over all weights that have it."""
        return sum(figures[figure] for figures in self.figures.values() if figure in figures)

    def add(self, name: str, before: Tensor, stored: Tensor) -> bool:
        """Count a weight, or some rows of it, and return whether they change.

        Args:
            name: Its name.
            before: Its values before, of at least the precision of ``stored``.
            stored: Its values as they will be stored.

        Raises:
            DefenseError: If a value is not finite.
        """
        change = Change.between(before, stored)
        if not change.finite:
            require_finite_result(name, stored)
        return self.count(name, change)

    def count(self, name: str, change: "Change") -> bool:
        """Count what changed in a weight, or in some rows of it, and return whether anything did."""
        if change.entries:
            self.counts[name] = self.counts.get(name, 0) + change.entries
            self.squares[name] = self.squares.get(name, 0.0) + change.square
        return change.entries > 0

    def reorder(self, names: Sequence[str]) -> None:
        """Put all figures in the order of some names, which are those of all weights that were counted."""
        self.counts = {name: self.counts[name] for name in names if name in self.counts}
        self.squares = {name: self.squares[name] for name in names if name in self.squares}
        self.figures = {name: self.figures[name] for name in names if name in self.figures}

    @property
    def distance(self) -> float:
        """L2 norm of the change."""
        return math.sqrt(math.fsum(self.squares.values()))

    def by_layer(self) -> dict[str, float]:
        """‖change‖² by decoder block, for the weights inside one."""
        layers: dict[str, float] = {}
        for name, square in self.squares.items():
            layer = layer_of(name)
            if layer is not None:
                layers[layer] = layers.get(layer, 0.0) + square
        return layers


def require_finite_result(name: str, stored: Tensor) -> None:
    """Refuse new values with NaN or Inf among them.

    Raises:
        DefenseError: If there are some.
    """
    if not bool(stored.isfinite().all()):
        raise DefenseError(
            f"the repair would leave NaN or Inf in '{name}'; lower its strength, and check the models it compares"
        )
