"""A search for the learning rate of a training inside a repair."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from mithridate.errors import DefenseError, Diverged
from mithridate.models.undo import undone
from mithridate.repair.budgets import Budgets
from mithridate.repair.realignment import Realignment
from mithridate.repair.repair_inputs import UntokenizedRow
from mithridate.repair.repaired import DosePoint


class Trial(NamedTuple):
    """The best training on some rows.

    Attributes:
        point: What it cost the user's rows and the safe rows kept aside.
        figures: What it did.
        values: The weights it ended with.
        points: All rates that were tried on these rows and left finite weights, in rising order.
    """

    point: DosePoint
    figures: dict[str, float]
    values: list[Tensor]
    points: list[DosePoint]

    @property
    def loss(self) -> float:
        """Mean token loss on the safe rows kept aside, in nats."""
        assert self.point.safe_loss is not None
        return self.point.safe_loss


class RateSearch:
    """Trains from the same weights at several rates; every trial is undone.

    Args:
        training: How to train.
        budgets: What a training may cost, measured on safe rows among others.
        rates: Learning rates in rising order.

    Attributes:
        trials: Trainings so far.
    """

    def __init__(self, training: Realignment, budgets: Budgets, rates: Sequence[float]) -> None:
        self._training, self._budgets, self._rates = training, budgets, rates
        self.trials = 0

    def best(self, rows: Sequence[UntokenizedRow]) -> Trial:
        """Return the training with the lowest loss on the safe rows kept aside, among those within the budgets.

        Raises:
            DefenseError: If there is none within the budgets, or every rate left NaN or Inf.
        """
        best, points, diverged = self._tried(rows)
        if not points:
            raise DefenseError(f"every rate left NaN or Inf; with {self._rates[0]:g}, the lowest, {diverged[0]}")
        if best is None:
            raise DefenseError(self._budgets.exceeded("learning_rate", min(points, key=self._budgets.excess)))
        return best

    def best_near(self, rows: Sequence[UntokenizedRow], loss: float) -> Trial | None:
        """Return the best training if its loss is not above a limit; None otherwise."""
        best, _, _ = self._tried(rows)
        return best if best is not None and best.loss <= loss else None

    def _tried(self, rows: Sequence[UntokenizedRow]) -> tuple[Trial | None, list[DosePoint], list[str]]:
        best: Trial | None = None
        points: list[DosePoint] = []
        diverged: list[str] = []
        for rate in self._rates:
            self.trials += 1
            with undone():
                try:
                    figures = self._training.run(rate, rows)
                except Diverged as error:
                    # As text: the error holds on to the trainer, and with it to the memory of its optimizer.
                    diverged.append(str(error))
                    continue
                points.append(self._budgets.measure(rate))
                trial = Trial(points[-1], figures, self._training.weights.snapshot(), points)
            # A tie goes to the lower rate, which moves the weights less.
            if self._budgets.allow(trial.point) and (best is None or trial.loss < best.loss):
                best = trial
        return best, points, diverged
