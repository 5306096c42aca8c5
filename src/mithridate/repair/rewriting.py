"""New merged weights in place of the present ones: counted, undone, and of any dose."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mithridate.errors import DefenseError
from mithridate.models.merged_weights import MergedWeights, some
from mithridate.models.tensor_files import EVERY_ROW
from mithridate.models.undo import undone
from mithridate.repair.repaired import DoseCurve, LayerProfile, Repaired
from mithridate.repair.tally import Change, Tally, require_finite_result

ValueAtDose = Callable[[str, Tensor, float], Tensor]
"""From a weight's name, its tuned value θ and a dose to its new value, both float64."""
RowsAtDose = Callable[..., Tensor]
"""From some rows of θ, a dose and the same rows of other models to the rows' new value, all float64."""
NewRows = Callable[..., Tensor]
"""From a weight's name, some rows of θ and the same rows of others to the rows' new value, all float64."""


class Partner(Protocol):
    """What a model is compared with, weight by weight; `MergedWeights` are."""

    def held(self, name: str, rows: slice = EVERY_ROW) -> Tensor:
        """Return some rows of a weight in any type, unchecked."""

    def read(self, name: str, *, rows: slice = EVERY_ROW) -> Tensor:
        """Return the same, in float64.

        Raises:
            ModelError: If there are NaN or Inf among them.
        """


class _NewBlock(NamedTuple):
    """Some rows of a weight as they will be stored, and what that changes."""

    stored: Tensor
    change: Change


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

    def put_rows(self, names: Sequence[str], new: NewRows, partners: Sequence[Partner] = ()) -> None:
        """Write new values, each row of which depends on the same row alone, of these weights and of others.

        Args:
            names: Plain names.
            new: Returns the new values. It may be called in other threads, and for any number of rows.
            partners: What else it is given rows of.

        Raises:
            DefenseError: If a new value is not finite.
            ModelError: If a present one is not, or one of the others.
        """

        @torch.no_grad()
        def work(name: str, rows: slice) -> _NewBlock:
            return self._new_block(name, rows, new, partners)

        for name, rows, (stored, change) in self._weights.each_block(names, self.tally, work):
            if self.tally.count(name, change):
                self._weights.write(name, stored, rows)

    def _new_block(self, name: str, rows: slice, new: NewRows, partners: Sequence[Partner]) -> _NewBlock:
        held = [one.held(name, rows) for one in (self._weights, *partners)]
        stored = torch.empty_like(held[0], dtype=self._weights.dtype(name))
        changes = []
        for part in self._weights.pieces(stored):
            # In float64: differences of nearby models are small beside the weights themselves.
            before, *others = (some(one, part).to(stored.device, torch.float64) for one in held)
            piece = some(stored, part).copy_(new(name, before, *others))
            # What was merged in float64 may have more digits than will be stored.
            changes.append(Change.between(before, piece, exact=held[0].dtype == stored.dtype))
        change = Change(sum(one.entries for one in changes), sum(one.square for one in changes))
        # NaN and Inf anywhere come through to the change, so that nothing is searched for them unless it has some.
        if not change.finite:
            for one in (self._weights, *partners):
                one.read(name, rows=rows)
            require_finite_result(name, stored)
        return _NewBlock(stored, change)

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
    """

    def __init__(self, weights: MergedWeights, names: Sequence[str], value_at: ValueAtDose) -> None:
        self._weights, self._names, self._value_at = weights, names, value_at

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
            theta = self._weights.read(name)
            rewrite.put(name, theta, self._value_at(name, theta, dose))
        return rewrite


class RowPath(WeightPath):
    """The same, where each row's value depends on that row alone, so that a few are moved at a time.

    Args:
        weights: Weights of the model to repair.
        names: Those that move.
        rows_at: Values of some rows at a dose.
        partners: Models whose rows it is given.
    """

    def __init__(
        self, weights: MergedWeights, names: Sequence[str], rows_at: RowsAtDose, partners: Sequence[Partner]
    ) -> None:
        super().__init__(weights, names, lambda name, theta, dose: rows_at(theta, dose))
        self._rows_at, self._partners = rows_at, partners

    def _write(self, dose: float) -> Rewrite:
        rewrite = Rewrite(self._weights)
        rewrite.put_rows(self._names, lambda name, theta, *rows: self._rows_at(theta, dose, *rows), self._partners)
        return rewrite
