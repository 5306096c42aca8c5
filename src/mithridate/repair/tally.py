"""What a repair actually changed, weight by weight, after rounding."""

import math

from torch import Tensor

from mithridate.errors import DefenseError
from mithridate.models.decoder import layer_of


class Tally:
    """Counts changed entries and adds up their squared change.

    Attributes:
        changed: Number of entries whose stored value differs.
        squares: ‖change‖² by weight, only for weights that changed.
    """

    def __init__(self) -> None:
        self.changed = 0
        self.squares: dict[str, float] = {}

    def add(self, name: str, before: Tensor, stored: Tensor) -> bool:
        """Count one weight and return whether it changes.

        Args:
            name: Its name.
            before: Its values before, of at least the precision of ``stored``.
            stored: Its values as they will be stored.

        Raises:
            DefenseError: If a value is not finite.
        """
        if not bool(stored.isfinite().all()):
            raise DefenseError(
                f"the repair would leave NaN or Inf in '{name}'; lower its strength, and check the models it compares"
            )
        # Both in the stored type: a change below its precision is none.
        changed = int((stored != before.to(stored.dtype)).sum())
        if changed:
            self.changed += changed
            self.squares[name] = float((stored.double() - before.double()).square().sum())
        return changed > 0

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
