"""How much a repair may cost: by how much the losses of the user's and of the provider's rows may rise."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from mithridate.models.batches import batches
from mithridate.models.modes import evaluating
from mithridate.models.tokenization import TokenizedRow
from mithridate.repair.repaired import DoseCurve, DosePoint
from mithridate.training.scoring import Likelihood
from mithridate.training.trainable_weights import Weights

Losses = Callable[[], Tensor]
"""Returns the loss of each row of a set, (rows,) at the present weights, in nats per token."""


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
    """How far a repair may raise losses above those of the weights it starts from.

    The rise on the user's rows is the mean over rows of how much their loss rises, without the share ``trim`` of rows
    whose loss rises most: a held-out slice of unvetted data may hold the very rows to be forgotten.

    The provider's safe rows are vetted, so all of them count, and a row whose loss falls counts as unchanged: that
    refusals become likelier must not pay for ordinary help, or for harmless look-alikes, that becomes less likely.
    Each kind of safe row has a mean of its own, since many refusals would hide a few answers; the largest is limited.

    A small rise over all answers may still be a few harmless prompts that are refused outright, those that look
    harmful. So the model is asked as well, at doses within the other budgets. One row more is always allowed: among few
    rows it is a large share, and shows nothing.

    Args:
        user: Losses of the held-out rows.
        safe: Losses of the provider's safe rows by kind; empty where there are none.
        harmful: Losses of the harmful rows, for the report; None where there are none.
        refused: Which harmless rows the model refuses, (rows,) of 0 and 1; None where there are none.
        budget: Largest rise allowed on the user's rows, in nats per token.
        safe_budget: The same for the safe rows.
        over_refusal_budget: Largest rise allowed of the share of harmless rows that are refused, beyond one row.
        trim: Share of the user's rows left out, in [0, 1).
    """

    def __init__(
        self,
        *,
        user: Losses,
        safe: Mapping[str, Losses],
        harmful: Losses | None,
        budget: float,
        safe_budget: float,
        trim: float,
        refused: Losses | None = None,
        over_refusal_budget: float = 0.0,
    ) -> None:
        self.budget, self.safe_budget, self.over_refusal_budget = budget, safe_budget, over_refusal_budget
        self._user, self._safe, self._harmful, self._trim = user, safe, harmful, trim
        self._user_before = user()
        self._safe_before = {kind: losses() for kind, losses in safe.items()}
        self._refused = refused
        self._refused_before = torch.zeros(0) if refused is None else refused()

    def measure(self, dose: float) -> DosePoint:
        """Measure the present weights, which have a dose."""
        user = self._user()
        safe = {kind: losses() for kind, losses in self._safe.items()}
        means = [(safe[kind] - before).clamp(min=0).mean() for kind, before in self._safe_before.items()]
        point = DosePoint(
            dose=dose,
            user_loss=float(user.mean()),
            rise=self._trimmed_mean(user - self._user_before),
            harmful_loss=None if self._harmful is None else float(self._harmful().mean()),
            safe_loss=float(torch.cat(list(safe.values())).mean()) if safe else None,
            # By torch, whose maximum of NaN and a number is NaN.
            safe_rise=float(torch.stack(means).max()) if means else None,
        )
        if self._refused is None or not self._bearable(point):
            return point
        return point.model_copy(update={"refused_rise": float((self._refused() - self._refused_before).mean())})

    def _trimmed_mean(self, rises: Tensor) -> float:
        # NaN sorts last and would be left out with the largest rises, though it is no loss but a broken model.
        if bool(rises.isnan().any()):
            return math.nan
        # Row by row, since the rows that rise most may be the harmful ones, and are left out; one row at least is
        # kept, since the mean of none is NaN.
        return float(rises.sort().values[: max(1, round(len(rises) * (1 - self._trim)))].mean())

    def allow(self, point: DosePoint) -> bool:
        """Return whether a dose is within the budgets of all rows."""
        rows = len(self._refused_before)
        more = rows * (point.refused_rise or 0.0)
        return self._bearable(point) and round(more) <= max(1.0, rows * self.over_refusal_budget)

    def _bearable(self, point: DosePoint) -> bool:
        """Return whether the losses at a dose are within their budgets."""
        # Apart, since a dose that breaks the model gives NaN, which is within no budget, and max() may drop it.
        return point.rise <= self.budget and (point.safe_rise is None or point.safe_rise <= self.safe_budget)

    def excess(self, point: DosePoint) -> float:
        """Return by which factor of its budget the worse of the two rises is."""
        rises = [point.rise / self.budget]
        if point.safe_rise is not None:
            rises.append(point.safe_rise / self.safe_budget)
        worst = math.inf if any(map(math.isnan, rises)) else max(rises)
        # Beyond its budgets, though its losses are not: only what is refused tells such doses apart.
        return worst if self._bearable(point) == self.allow(point) else 1 + (point.refused_rise or 0.0)

    def curve(self, parameter: str, chosen: float, points: Sequence[DosePoint]) -> DoseCurve:
        """Return how a dose was found, for the report."""
        return DoseCurve(
            parameter=parameter,
            chosen=chosen,
            budget=self.budget,
            safe_budget=self.safe_budget if self._safe else None,
            over_refusal_budget=None if self._refused is None else self.over_refusal_budget,
            points=list(points),
        )

    def exceeded(self, parameter: str, point: DosePoint) -> str:
        """Return what a dose beyond the budgets costs, as a sentence."""
        if self._bearable(point) and point.refused_rise is not None:
            return (
                f"even {parameter}={point.dose:g} has {100 * point.refused_rise:.3g} % more of the provider's harmless "
                f"safe rows refused, above the over_refusal_budget of {100 * self.over_refusal_budget:g} %; raise it "
                "or give the strength yourself"
            )
        whose, rise, name, budget = "held-out user", point.rise, "budget", self.budget
        if point.rise <= self.budget and point.safe_rise is not None:
            whose, rise, name, budget = "provider's safe", point.safe_rise, "safe_budget", self.safe_budget
        return (
            f"even {parameter}={point.dose:g} raises the loss on the {whose} rows by {rise:.3g} nats per token, above "
            f"the {name} of {budget}; raise the {name} or give the strength yourself"
        )
