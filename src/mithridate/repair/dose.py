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


def largest_dose(
    *,
    parameter: str,
    doses: Iterable[float],
    dosed: Callable[[float], Any],
    user: RowLosses,
    harmful: RowLosses | None,
    budget: float,
    trim: float,
) -> DoseCurve:
    """Try rising doses until the budget is exceeded, then bisect; if the first dose exceeds it, halve that one first.

    The rise of a dose is the mean over held-out rows of how much their loss rises, without the share ``trim``
    of rows whose loss rises most: a held-out slice of unvetted data may hold the very rows to be forgotten.

    Args:
        parameter: Name of the setting.
        doses: Doses in rising order.
        dosed: Context manager under which the model has a dose.
        user: Losses of the held-out rows.
        harmful: Losses of the harmful rows, for the report; None where there are none.
        budget: Largest rise allowed, in nats per token.
        trim: Share of rows left out, in [0, 1).

    Raises:
        DefenseError: If even the smallest dose is beyond the budget.
    """
    undosed = user()
    points: list[DosePoint] = []

    def measure(dose: float) -> bool:
        with dosed(dose):
            losses = user()
            harm = float(harmful().mean()) if harmful is not None else None
        # Row by row, since the rows that rise most may be the harmful ones, and are left out.
        rises = (losses - undosed).sort().values
        # One row at least, since the mean of none is NaN.
        kept = rises[: max(1, round(len(rises) * (1 - trim)))]
        rise = float(kept.mean())
        points.append(DosePoint(dose=dose, user_loss=float(losses.mean()), rise=rise, harmful_loss=harm))
        # A dose that breaks the model gives NaN, which is not within the budget.
        return rise <= budget

    # low: the largest dose known to be within the budget; high: the smallest known to be beyond it.
    low, high = None, None
    for dose in doses:
        if not measure(dose):
            high = dose
            break
        low = dose
    if low is None and high is not None:
        low, high = _halved(high, measure)
    if low is None:
        raise DefenseError(
            f"even {parameter}={high} raises the loss on the held-out user rows by {points[-1].rise:.3g} nats per "
            f"token, above the budget of {budget}; raise the budget or give the strength yourself"
        )
    # Without a dose beyond the budget there is no interval to bisect.
    for _ in range(REFINEMENTS if high is not None else 0):
        middle = (low + high) / 2  # type: ignore[operator]
        low, high = (middle, high) if measure(middle) else (low, middle)
    points.sort(key=lambda point: point.dose)
    return DoseCurve(parameter=parameter, chosen=low, budget=budget, points=points)


def _halved(high: float, within: Callable[[float], bool]) -> tuple[float | None, float]:
    """Halve a dose until it is within the budget (None if it never is); return it and the last one beyond."""
    for _ in range(HALVINGS):
        if within(high / 2):
            return high / 2, high
        high /= 2
    return None, high
