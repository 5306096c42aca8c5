"""New effective weights in place of the present ones: counted, undone, and of any dose."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from mithridate.errors import DefenseError
from mithridate.repair.effective import Effective
from mithridate.repair.results import DoseCurve, LayerProfile, Repaired
from mithridate.training.decoder import layer_of

Moved = Callable[[str, Tensor, float], Tensor]
"""From a weight's name, its tuned value θ and a dose to its new value, all float64."""


class Rewrite:
    """Writes new values and keeps count.

    Args:
        weights: Weights of the model to repair.
        undoable: Keep copies of what is overwritten.
    """

    def __init__(self, weights: Effective, undoable: bool = False) -> None:
        self._weights, self._undoable = weights, undoable
        self._saved: dict[str, list[Tensor]] = {}
        self._changed = 0
        self._squares: dict[str, float] = {}

    def put(self, name: str, before: Tensor, after: Tensor) -> None:
        """Write a value, unless nothing of it is left at the weight's precision.

        Args:
            name: Plain name.
            before: Present value, float64.
            after: New value, float64.

        Raises:
            DefenseError: If the new value is not finite.
        """
        dtype = self._weights.dtype(name)
        stored = after.to(dtype)
        changed = int((stored != before.to(dtype)).sum())
        if not changed:
            return
        square = float((stored.double() - before).square().sum())
        if not square < float("inf"):
            raise DefenseError(f"the repair gives NaN or Inf in '{name}'; lower its strength")
        if self._undoable:
            self._saved[name] = self._weights.raw(name)
        self._weights.write(name, stored)
        self._changed += changed
        self._squares[name] = square

    def undo(self) -> None:
        """Put back what was overwritten, bit for bit."""
        for name, raw in self._saved.items():
            self._weights.restore(name, raw)

    def repaired(self, activity: dict[str, float], curve: DoseCurve | None = None) -> Repaired:
        """What was changed."""
        return Repaired(
            changed=self._changed,
            distance=sum(self._squares.values()) ** 0.5,
            activity=activity,
            dose_curve=curve,
            layer_profile=self._profile() if self._changed else None,
            merged=self._changed > 0 and self._weights.adapted,
        )

    def _profile(self) -> LayerProfile:
        """Norms per decoder block; the displaced weights are the effective ones, so both norms are the same."""
        layers: dict[str, float] = {}
        for name, square in self._squares.items():
            layer = layer_of(name)
            if layer is not None:
                layers[layer] = layers.get(layer, 0.0) + square
        order = sorted(layers, key=int)
        norms = [layers[layer] ** 0.5 for layer in order]
        return LayerProfile(layers=order, factor_norm=norms, delta_norm=norms)


class Line:
    """The weights as a function of one dose.

    Args:
        weights: Weights of the model to repair.
        names: Those that move.
        moved: Their values at a dose.
    """

    def __init__(self, weights: Effective, names: Sequence[str], moved: Moved) -> None:
        self._weights, self._names, self._moved = weights, names, moved

    def apply(self, dose: float) -> Rewrite:
        """Set the weights to a dose.

        Raises:
            DefenseError: If no weight changes.
        """
        rewrite = self._write(Rewrite(self._weights), dose)
        if not rewrite.repaired({}).changed:
            raise DefenseError(
                "the repair changed no weight: the models it compares have equal weights, or the strength is below "
                "the weights' precision; check aligned= and base="
            )
        return rewrite

    @contextmanager
    def dosed(self, dose: float) -> Iterator[None]:
        """Set the weights to a dose inside the block; saved copies are put back after it."""
        rewrite = Rewrite(self._weights, undoable=True)
        try:
            self._write(rewrite, dose)
            yield
        finally:
            rewrite.undo()

    def _write(self, rewrite: Rewrite, dose: float) -> Rewrite:
        for name in self._names:
            theta = self._weights.read(name)
            rewrite.put(name, theta, self._moved(name, theta, dose))
        return rewrite
