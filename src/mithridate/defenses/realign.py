"""Realign: train the tuned model once more on the provider's safe rows.

No paper of its own: it is the first thing that a provider would do, and so the control that every method has to beat.
Safety mixing does the same during fine-tuning; one-shot patching (arXiv 2601.01887) does it with a single row and a few
steps.

    w ← AdamW on f from the tuned w,   f the loss of the safe rows

with any alignment-stage defense's gradient in the place of ∇f. AdamW has a constant rate and no weight decay, and
gradients are clipped to norm 1. Cost: that defense's passes over every safe row that is trained on; with
``learning_rate="auto"`` once for every rate tried, with ``rows="auto"`` once for every number of rows too. The rows
trained on, those of the search included, are counted and reported.

``auto`` keeps a share of the safe rows aside, refusals and answers among them, trains at every rate, and takes the rate
with the lowest loss on the rows kept aside, among those within the budgets of the user's rows and of these. With
``rows="auto"`` it then quarters the number of rows for as long as the loss stays near that of all rows.

Differences. From one-shot patching: it chooses its row, by gradients; here the provider does.
"""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from mithridate.defenses.registry import method, register
from mithridate.errors import DefenseError
from mithridate.models.undo import overwrite
from mithridate.repair.post_tuning import Dose, Repair
from mithridate.repair.rate_search import RateSearch
from mithridate.repair.realignment import Course, Realignment
from mithridate.repair.repair_inputs import RepairInputs, UntokenizedRow
from mithridate.repair.repairable import repairable
from mithridate.repair.repaired import Repaired
from mithridate.repair.safe_kinds import split
from mithridate.settings import Passes
from mithridate.training.defense import Defense

RATES = (3e-5, 1e-4, 3e-4, 1e-3)
"""Learning rates tried by ``"auto"``."""
DIVISOR = 4
"""Ratio of two numbers of rows tried by ``"auto"``."""
FEWEST_ASIDE = 8
"""Safe rows, at least, that ``"auto"`` measures on and does not train on."""


@register(
    "realign",
    stage="posttuning",
    paper="control: alignment once more, after fine-tuning",
    streams=("safe",),
    forward=1,
    backward=1,
    off={"rows": 0},
    extra="per safe row trained on, by the inner defense; auto: at each of 4 rates",
)
class Realign(Repair):
    """Realign: w ← AdamW on the safe rows' loss, from the tuned weights  (1 pass over each row trained on).

    Attributes:
        inner: Name of the alignment-stage defense to train with.
        settings: Its settings.
        learning_rate: Of AdamW, or ``"auto"`` for the best one within the budgets.
        rows: Number of safe rows to train on, drawn by ``seed``; all by default; or ``"auto"`` for few that do as well.
        epochs: Passes over them; at least ten steps are taken.
        step_rows: Rows of an optimizer step.
        held_out: For ``"auto"``: share of the safe rows that is measured on and not trained on.
        tolerance: For ``rows="auto"``: how much higher the loss on these may be than with all rows, in nats per token.
        seed: Seed of the draw of rows and of the training.
    """

    dose = "learning_rate"

    inner: str = Field(default="sft")
    settings: dict[str, Any] = Field(default_factory=dict)
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] = "auto"
    rows: Annotated[int, Field(ge=0)] | Literal["auto"] | None = None
    epochs: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    step_rows: int = Field(default=16, ge=1)
    held_out: float = Field(default=0.1, gt=0, lt=1)
    tolerance: float = Field(default=0.02, ge=0, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0, lt=2**32)
    if TYPE_CHECKING:  # every dose can also be given as strength, which `Settings` sets
        strength: Dose = 0.0

    @model_validator(mode="after")
    def _can_train(self) -> "Realign":
        # An unknown name or setting is refused now, not after the model was tuned.
        self._defense()
        return self

    @property
    def trains_with(self) -> str | None:
        """The inner defense."""
        return self.inner

    @property
    def searches(self) -> bool:
        """Whether the rate or the number of rows is to be searched for."""
        return self.rows != 0 and "auto" in (self.learning_rate, self.rows)

    @property
    def passes(self) -> Passes:
        """Those of the defense that is trained with."""
        return self._defense().passes

    @property
    def streams(self) -> tuple[str, ...]:
        """The safe rows, and what the defense that is trained with needs."""
        return tuple(dict.fromkeys(("safe", *self._defense().streams)))

    def change(self, inputs: RepairInputs) -> Repaired:
        """Train the adapter's weights, or all where there is none, in place."""
        if self.rows == 0:
            return Repaired(changed=0, distance=0.0)
        safe = inputs.untokenized("safe")
        if isinstance(self.rows, int) and self.rows > len(safe):
            raise DefenseError(
                f"rows={self.rows} safe rows are asked for and {len(safe)} are given; give more, or less"
            )
        random.Random(self.seed).shuffle(safe)
        course = Course(self.epochs, self.step_rows, self.seed)
        training = Realignment(inputs, repairable(inputs.model), self._defense(), course)
        before = training.weights.snapshot()
        repaired = self._searched(inputs, training, safe) if self.searches else self._trained(training, safe)
        moved = training.weights.moved_since(before)
        # A repair without effect must not pass for one.
        if not moved.weights:
            raise DefenseError("the training changed no weight; raise the learning rate, and check the safe rows")
        return repaired.model_copy(update={"changed": moved.weights, "distance": moved.distance})

    def _defense(self) -> Defense:
        made = method(self.inner, "alignment").cls(**self.settings)
        assert isinstance(made, Defense)  # the registry gives nothing else at this stage; for type checkers
        return made

    def _trained(self, training: Realignment, safe: Sequence[UntokenizedRow]) -> Repaired:
        """Train once, at the rate and on the number of rows that are given."""
        assert not isinstance(self.rows, str)
        figures = training.run(float(self.learning_rate), safe[: self.rows])
        return Repaired(changed=0, distance=0.0, activity=figures, rows_trained=training.rows)

    def _searched(self, inputs: RepairInputs, training: Realignment, safe: Sequence[UntokenizedRow]) -> Repaired:
        """End with the weights of the best rate within the budgets, on the fewest rows that come near to it."""
        aside = max(FEWEST_ASIDE, round(self.held_out * len(safe)))
        measured, safe = split(safe, aside)
        if isinstance(self.rows, int) and self.rows > len(safe):
            raise DefenseError(
                f"rows={self.rows} are asked for, and {len(safe)} are left besides the {len(measured)} that 'auto' "
                "measures on and their copies; give more, ask for fewer, or give a learning rate"
            )
        budgets = self.budgets(inputs, measured)
        rates = RATES if self.learning_rate == "auto" else (self.learning_rate,)
        search = RateSearch(training, budgets, rates)
        size = self.rows if isinstance(self.rows, int) else len(safe)
        best = search.best(safe[:size])
        enough = best.loss + self.tolerance
        while self.rows == "auto" and size >= DIVISOR:
            size //= DIVISOR
            fewer = search.best_near(safe[:size], enough)
            if fewer is None:
                break
            best = fewer
        for weight, value in zip(training.weights.parameters, best.values, strict=True):
            overwrite(weight, value)
        return Repaired(
            changed=0,
            distance=0.0,
            activity=best.figures | {"trials": search.trials, "rows_in_trials": training.rows},
            rows_trained=training.rows,
            dose_curve=budgets.curve("learning_rate", best.point.dose, best.points),
        )
