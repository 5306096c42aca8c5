"""``strength="auto"``: the largest dose that the user's own data can bear."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mithridate.errors import DefenseError
from mithridate.models.batches import batches
from mithridate.models.modes import evaluating
from mithridate.models.tokenization import TokenizedRow
from mithridate.repair.repaired import DoseCurve, DosePoint
from mithridate.training.scoring import Likelihood
from mithridate.training.trainable_weights import Weights

AUTO_NEEDS_USER = "strength='auto' needs user=, held-out rows of the user's own data"
REFINEMENTS = 4
"""Bisections between the last dose within the budget and the first one beyond it: to a sixteenth of that interval."""
HALVINGS = 6
"""Times the smallest dose is halved if it is already beyond the budget."""


class RowLosses:
    """Mean token loss of each row of a set, in nats.

    Args:
        model: The model to score with.
        weights: Any of its weights.
        examples: The rows.
        batch_size: Rows per forward pass.
    """

    def __init__(self, model: nn.Module, weights: Weights, examples: Sequence[TokenizedRow], batch_size: int) -> None:
        self._likelihood = Likelihood(model, weights)
        self._examples = examples
        self._batch_size = batch_size
        self._device = weights.parameters[0].device

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """(rows,) at the present weights, without dropout."""
        # Padded with token 0, which every model has: padding is masked and carries no label.
        parts = batches(self._examples, self._batch_size, 0, self._device)
        with evaluating(self._likelihood.model):
            return torch.cat([self._likelihood.score(batch).mean_nll.double() for batch in parts])


class Budgets:
    """How far a repair may raise losses: those of the user's held-out rows, and of the provider's safe rows.

    The rise on the user's rows is the mean over rows of how much their loss rises, without the share ``trim`` of rows
    whose loss rises most: a held-out slice of unvetted data may hold the very rows to be forgotten. The rise on the
    safe rows counts rows whose loss falls as unchanged: that refusals become likelier must not pay for ordinary help,
    or for harmless look-alikes, that becomes less likely.

    Args:
        user: Losses of the held-out rows.
        safe: Losses of the provider's safe rows; None where there are none.
        harmful: Losses of the harmful rows, for the report; None where there are none.
        budget: Largest rise allowed, in nats per token.
        trim: Share of the user's rows left out, in [0, 1).
    """

    def __init__(
        self, user: RowLosses, safe: RowLosses | None, harmful: RowLosses | None, budget: float, trim: float
    ) -> None:
        self.budget = budget
        self._user, self._safe, self._harmful, self._trim = user, safe, harmful, trim
        self._user_before, self._safe_before = user(), safe() if safe is not None else None

    def measure(self, dose: float) -> DosePoint:
        """Measure the present weights, which have a dose."""
        user = self._user()
        # Row by row, since the rows that rise most may be the harmful ones, and are left out.
        rises = (user - self._user_before).sort().values
        # One row at least, since the mean of none is NaN.
        kept = rises[: max(1, round(len(rises) * (1 - self._trim)))]
        safe = self._safe() if self._safe is not None else None
        return DosePoint(
            dose=dose,
            user_loss=float(user.mean()),
            rise=float(kept.mean()),
            harmful_loss=None if self._harmful is None else float(self._harmful().mean()),
            safe_loss=None if safe is None else float(safe.mean()),
            safe_rise=None if safe is None else float((safe - self._safe_before).clamp(min=0).mean()),
        )

    def allow(self, point: DosePoint) -> bool:
        """Return whether a dose is within the budget on all rows."""
        # A dose that breaks the model gives NaN, which is not within the budget.
        return max(point.rise, point.safe_rise or 0.0) <= self.budget

    def exceeded(self, parameter: str, point: DosePoint) -> str:
        """Return what a dose beyond the budget costs, as a sentence."""
        whose, rise = ("held-out user", point.rise)
        if point.rise <= self.budget and point.safe_rise is not None:
            whose, rise = ("provider's safe", point.safe_rise)
        return (
            f"even {parameter}={point.dose:g} raises the loss on the {whose} rows by {rise:.3g} nats per token, above "
            f"the budget of {self.budget}; raise the budget or give the strength yourself"
        )


def largest_dose(
    *, parameter: str, doses: Iterable[float], dosed: Callable[[float], Any], budgets: Budgets
) -> DoseCurve:
    """Try rising doses until the budget is exceeded, then bisect; if the first dose exceeds it, halve that one first.

    Args:
        parameter: Name of the setting.
        doses: Doses in rising order.
        dosed: Context manager under which the model has a dose.
        budgets: How far losses may rise.

    Raises:
        DefenseError: If even the smallest dose is beyond the budget.
    """
    points: list[DosePoint] = []

    def within(dose: float) -> bool:
        with dosed(dose):
            points.append(budgets.measure(dose))
        return budgets.allow(points[-1])

    # low: the largest dose known to be within the budget; high: the smallest known to be beyond it.
    low, high = None, None
    for dose in doses:
        if not within(dose):
            high = dose
            break
        low = dose
    if low is None and high is not None:
        low, high = _halved(high, within)
    if low is None:
        raise DefenseError(budgets.exceeded(parameter, points[-1]))
    # Without a dose beyond the budget there is no interval to bisect.
    for _ in range(REFINEMENTS if high is not None else 0):
        middle = (low + high) / 2  # type: ignore[operator]
        low, high = (middle, high) if within(middle) else (low, middle)
    points.sort(key=lambda point: point.dose)
    return DoseCurve(parameter=parameter, chosen=low, budget=budgets.budget, points=points)


def _halved(high: float, within: Callable[[float], bool]) -> tuple[float | None, float]:
    """Halve a dose until it is within the budget (None if it never is); return it and the last one beyond."""
    for _ in range(HALVINGS):
        if within(high / 2):
            return high / 2, high
        high /= 2
    return None, high
