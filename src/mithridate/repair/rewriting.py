"""New merged weights in place of the present ones: counted, undone, and of any dose."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from mithridate.errors import DefenseError
from mithridate.models.merged_weights import MergedWeights
from mithridate.models.tensor_files import EVERY_ROW
from mithridate.models.undo import undone
from mithridate.repair.repaired import DoseCurve, LayerProfile, Repaired
from mithridate.repair.tally import Tally

ValueAtDose = Callable[[str, slice, Tensor, float], Tensor]
"""From a weight's name, some of its rows, their tuned value θ and a dose to their new value, all float64."""


class Rewrite:
    """Writes new values and keeps count.

    Args:
        weights: Weights of the model to repair.
        tally: Where to count; a new one by default.
    """

    def __init__(self, weights: MergedWeights, tally: Tally | None = None) -> None:
        self._weights = weights
        self.tally = Tally() if tally is None else tally

    def put(self, name: str, before: Tensor, after: Tensor, rows: slice = EVERY_ROW) -> None:
        """Write a value, unless it equals the present one at the weight's precision.

        Args:
            name: Plain name.
            before: Present value, float64.
            after: New value, float64.
            rows: The rows that the values are of.

        Raises:
            DefenseError: If the new value is not finite.
        """
        # Rounded before it is compared, so that what is reported is what the file will hold.
        stored = after.to(self._weights.dtype(name))
        if self.tally.add(name, before, stored):
            self._weights.write(name, stored, rows)

    def add(self, name: str, change: Tensor) -> None:
        """Add to a linear layer's weight, as (outputs, inputs) float64, for a name in ``matrices``."""
        before = self._weights.read(name)
        self.put(name, before, before + self._weights.turned(name, change))

    def repaired(self, activity: dict[str, float], curve: DoseCurve | None = None) -> Repaired:
        """Return what was changed."""
        return Repaired(
            changed=self.tally.changed,
            distance=self.tally.distance,
            activity=activity,
            dose_curve=curve,
            layer_profile=self._profile() if self.tally.changed else None,
            merged=self.tally.changed > 0 and self._weights.adapted,
        )

    def _profile(self) -> LayerProfile:
        """Norms per decoder block; the displaced weights are the merged ones, so both norms are the same."""
        squares = self.tally.by_layer()
        # As numbers: as texts, block 10 would come before block 2.
        order = sorted(squares, key=int)
        norms = [squares[layer] ** 0.5 for layer in order]
        return LayerProfile(layers=order, factor_norm=norms, delta_norm=norms)


class WeightPath:
    """The weights as a function of one dose.

    Args:
        weights: Weights of the model to repair.
        names: Those that move.
        value_at: Their values at a dose.
        elementwise: Whether an entry's value depends on no other entry, so that any rows can be moved alone.
    """

    def __init__(
        self, weights: MergedWeights, names: Sequence[str], value_at: ValueAtDose, *, elementwise: bool = False
    ) -> None:
        self._weights, self._names, self._value_at = weights, names, value_at
        self._elementwise = elementwise

    def apply(self, dose: float) -> Rewrite:
        """Set the weights to a dose.

        Raises:
            DefenseError: If no weight changes.
        """
        rewrite = self._write(dose)
        # A repair without effect must not pass for one.
        if not rewrite.tally.changed:
            raise DefenseError(
                "the repair changed no weight: the models it compares have equal weights, or the strength is below "
                "the weights' precision; check aligned= and base="
            )
        return rewrite

    @contextmanager
    def dosed(self, dose: float) -> Iterator[None]:
        """Set the weights to a dose inside the block, to the very bits that ``apply`` would write."""
        with undone():
            self._write(dose)
            yield

    def _write(self, dose: float) -> Rewrite:
        rewrite = Rewrite(self._weights)
        # One weight at a time, so that no second copy of the model is needed.
        for name in self._weights.each(self._names, rewrite.tally):
            for rows in self._weights.pieces(name) if self._elementwise else (EVERY_ROW,):
                theta = self._weights.read(name, rows=rows)
                rewrite.put(name, theta, self._value_at(name, rows, theta, dose), rows)
        return rewrite
