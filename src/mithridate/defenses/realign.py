"""Realign: train the tuned model once more on the provider's safe rows.

No paper of its own: it is the first thing that a provider would do, and so the control that every method has to beat.
Safety mixing does the same during fine-tuning; one-shot patching (arXiv 2601.01887) does it with a single row and a few
steps.

    w ← w after AdamW on f, the loss of safe rows, from the tuned weights

with any alignment-stage defense in the place of ∇f. Cost: the passes of that defense over the safe rows that are
trained on; with ``learning_rate="auto"`` once for every rate tried, with ``rows="auto"`` once for every number of rows.

``auto`` keeps a share of the safe rows aside, trains at every rate, and takes the rate with the lowest loss on them,
among those within the budgets of the user's rows and of these safe rows. With ``rows="auto"`` it takes the fewest rows
whose lowest loss is near that of all.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator
from torch import Tensor

from mithridate.defenses.registry import method, register
from mithridate.errors import DefenseError
from mithridate.models.undo import overwrite, undone
from mithridate.repair.dose import Budgets
from mithridate.repair.post_tuning import Dose, Repair
from mithridate.repair.realignment import Course, train_on
from mithridate.repair.repair_inputs import RepairInputs
from mithridate.repair.repairable import repairable
from mithridate.repair.repaired import DoseCurve, DosePoint, Repaired
from mithridate.settings import Passes
from mithridate.training.defense import Defense
from mithridate.training.trainable_weights import Weights

RATES = (3e-5, 1e-4, 3e-4, 1e-3)
"""Learning rates tried by ``"auto"``."""

GROWTH = 4
"""Factor between two numbers of rows tried by ``"auto"``."""

FEWEST_HELD_OUT = 8
"""Safe rows that ``"auto"`` needs beside those it trains on, at least."""


@register(
    "realign",
    stage="posttuning",
    paper="control: plain alignment once more, after tuning",
    streams=("safe",),
    forward=1,
    backward=1,
    off={"rows": 0},
    extra="per safe row trained on; auto once for each of 4 rates",
)
class Realign(Repair):
    """Realign: w ← w after AdamW on the safe rows' loss, from the tuned weights  (1 pass over the safe rows).

    Attributes:
        inner: Name of the alignment-stage defense that is trained with.
        settings: Its settings.
        learning_rate: Of AdamW, or ``"auto"``.
        rows: Safe rows to train on, the first ones; all by default; or ``"auto"`` for the fewest that do.
        epochs: Passes over them; at least ten steps are taken.
        step_rows: Rows of an optimizer step.
        held_out: For ``"auto"``: share of the safe rows, the last ones, that is measured on and not trained on.
        tolerance: For ``rows="auto"``: how much higher than with all rows the held-out loss may be, in nats per token.
        seed: Seed of the training.
    """

    dose = "learning_rate"

    inner: str = Field(default="sft")
    settings: dict[str, Any] = Field(default={})
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] = "auto"
    rows: Annotated[int, Field(ge=0)] | Literal["auto"] | None = None
    epochs: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    step_rows: int = Field(default=16, ge=1)
    held_out: float = Field(default=0.1, gt=0, lt=1)
    tolerance: float = Field(default=0.02, ge=0, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0)
    if TYPE_CHECKING:  # every dose can also be given as strength, which `Settings` sets
        strength: Dose = 0.0

    @model_validator(mode="after")
    def _trains(self) -> "Realign":
        self.defense  # an unknown name or setting is refused now, not after the model was tuned
        return self

    @property
    def defense(self) -> Defense:
        """The defense that is trained with."""
        made = method(self.inner, "alignment").cls(**self.settings)
        assert isinstance(made, Defense)
        return made

    @property
    def passes(self) -> Passes:
        """Those of the defense that is trained with."""
        return self.defense.passes

    @property
    def streams(self) -> tuple[str, ...]:
        """The safe rows, and what the defense that is trained with needs."""
        return tuple(dict.fromkeys(("safe", *self.defense.streams)))

    def change(self, inputs: RepairInputs) -> Repaired:
        """Train the adapter's weights, or all where there is none, in place."""
        if self.rows == 0:
            return Repaired(changed=0, distance=0.0)
        weights = repairable(inputs.model)
        before = weights.snapshot()
        curve = None
        if "auto" in (self.learning_rate, self.rows):
            figures, curve = self._searched(inputs, weights)
        else:
            figures = self._trained(inputs, weights, float(self.learning_rate), inputs.untokenized("safe")[: self.rows])
        moved = weights.moved_since(before)
        return Repaired(changed=moved.weights, distance=moved.distance, activity=figures, dose_curve=curve)

    def _trained(self, inputs: RepairInputs, weights: Weights, rate: float, rows: Sequence[Any]) -> dict[str, float]:
        """Train on rows at a rate; the weights stay where it ends."""
        course = Course(rate, self.epochs, self.step_rows, inputs.max_length, self.seed)
        harmful = inputs.untokenized("harmful") if "harmful" in self.streams else None
        refusals = inputs.refusals if "refusals" in self.streams else ()
        figures = train_on(inputs.model, weights, inputs.tokenizer, rows, self.defense, course, harmful, refusals)
        return {"learning_rate": rate, "safe_rows": len(rows), **figures}

    def _searched(self, inputs: RepairInputs, weights: Weights) -> tuple[dict[str, float], DoseCurve]:
        """End with the weights of the best rate within the budgets, on the fewest rows that come near to it."""
        given = inputs.untokenized("safe")
        aside = max(FEWEST_HELD_OUT, round(self.held_out * len(given)))
        if len(given) <= aside:
            raise DefenseError(
                f"'auto' needs more than {aside} safe rows, since it measures on {aside} that it does not train on, and "
                f"was given {len(given)}; give more, or a learning rate and a number of rows"
            )
        budgets = self.budgets(inputs, safe=inputs.rows("safe")[-aside:])
        given = given[: len(given) - aside]
        size = self.rows if isinstance(self.rows, int) else len(given)
        trials: list[_Trial] = []
        best = first = self._best_rate(inputs, weights, budgets, given[:size], trials)
        while self.rows == "auto" and size >= GROWTH and best is not None:
            size //= GROWTH
            fewer = self._best_rate(inputs, weights, budgets, given[:size], trials)
            if fewer is None or first is None or fewer.loss > first.loss + self.tolerance:
                break
            best = fewer
        if best is None:
            raise DefenseError(budgets.exceeded("learning_rate", min((t.point for t in trials), key=_spent)))
        for weight, value in zip(weights.parameters, best.values, strict=True):
            overwrite(weight, value)
        tried = {"trials": len(trials), "rows_tried": sum(t.figures["rows_trained"] for t in trials)}
        curve = DoseCurve(
            parameter="learning_rate", chosen=best.point.dose, budget=self.budget, points=[t.point for t in trials]
        )
        return best.figures | tried, curve

    def _best_rate(
        self, inputs: RepairInputs, weights: Weights, budgets: Budgets, rows: Sequence[Any], trials: list["_Trial"]
    ) -> "_Trial | None":
        """Train at every rate, from the same weights; the lowest loss on the safe rows aside, within the budgets."""
        rates = RATES if self.learning_rate == "auto" else (self.learning_rate,)
        best = None
        for rate in rates:
            with undone():
                figures = self._trained(inputs, weights, rate, rows)
                trial = _Trial(budgets.measure(rate), figures, weights.snapshot())
            # A tie goes to the lower rate, which moves the weights less.
            if budgets.allow(trial.point) and (best is None or trial.loss < best.loss):
                best = trial
            trials.append(trial._replace(values=[]))  # the weights of one trial alone are kept
        return best


class _Trial(NamedTuple):
    """One training.

    Attributes:
        point: What it cost the user's and the safe rows.
        figures: What it did.
        values: The weights it ended with.
    """

    point: DosePoint
    figures: dict[str, float]
    values: list[Tensor]

    @property
    def loss(self) -> float:
        """Mean token loss on the safe rows that were kept aside, in nats."""
        assert self.point.safe_loss is not None
        return self.point.safe_loss


def _spent(point: DosePoint) -> float:
    return max(point.rise, point.safe_rise or 0.0)
