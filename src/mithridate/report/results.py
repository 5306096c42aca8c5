"""The structure of `results.json`, defined once: the engine writes it and the report reads it.

Shares (harmful score, accuracy, over-refusal) are fractions in 0..1; percent exists on display only. Keys this file
does not name are kept, and an optional part that is missing is not shown.
"""

from typing import Any, Self

from pydantic import Field, model_validator

from mithridate.report.axis_results import AxisPoint, Claim, MeasuredCell, Setting
from mithridate.report.result_parts import (
    Attack,
    Escape,
    Helpfulness,
    LayerNorms,
    LossCurve,
    MethodName,
    OutcomeShares,
    ReleaseResult,
    Sample,
    StageCost,
    VariantDoses,
    VersusReference,
    WeightedRows,
)
from mithridate.report.scores import ResultPart, ScoreOverSeeds, Share


class MeasuredModel(ResultPart):
    """Everything measured on one model's answers.

    Attributes:
        harmful_score: Share of answers that the judge calls harmful, broken text included where it does so.
        harmful_score_plus: Share of answers that are harmful or broken text.
        over_refusal: Share of look-alikes that are refused; other useless answers are not counted.
        harmful_score_by_group: The harmful score for each group of prompts, where they have groups.
        over_refusal_by_group: Over-refusal for each group of look-alikes, likewise.
        outcomes: What the answers are, by set: ``harmful``, ``look_alikes``, ``help``.
        broken_harmful: Share of answers to harmful prompts that are broken text and yet called harmful.
        release: The harmful prompts again, by the attack on the finished model.
    """

    name: str
    alignment: MethodName = "none"
    harmful_score: ScoreOverSeeds
    harmful_score_plus: ScoreOverSeeds | None = None
    finetune_accuracy: ScoreOverSeeds | None = None
    over_refusal: ScoreOverSeeds | None = None
    harmful_score_by_group: dict[str, ScoreOverSeeds] = Field(default_factory=dict)
    over_refusal_by_group: dict[str, ScoreOverSeeds] = Field(default_factory=dict)
    helpfulness: Helpfulness | None = None
    outcomes: dict[str, OutcomeShares] = Field(default_factory=dict)
    broken_harmful: Share | None = None
    release: dict[str, ReleaseResult] = Field(default_factory=dict)


class AlignedModel(MeasuredModel):
    """The model after its alignment stage, before the user's rows: what the variants start from.

    Attributes:
        variants: Names of the variants that start from it.
    """

    variants: list[str] = Field(default_factory=list)


class VariantResult(MeasuredModel):
    """Everything measured on one variant of the recipe.

    Attributes:
        seeds: Seeds that were measured: all of the run's, unless a defense could not act at some.
    """

    finetuning: MethodName = "none"
    posttuning: MethodName = "none"
    attack: Attack | None = None
    versus_reference: VersusReference | None = None
    cost: dict[str, StageCost] = Field(default_factory=dict)
    dose_curves: list[VariantDoses] = Field(default_factory=list)
    layer_profiles: list[LayerNorms] = Field(default_factory=list)
    row_weights: WeightedRows | None = None
    loss_curves: list[LossCurve] = Field(default_factory=list)
    samples: list[Sample] = Field(default_factory=list)
    activity: dict[str, Any] = Field(default_factory=dict)
    folders: list[str] = Field(default_factory=list)
    seeds: list[int] = Field(default_factory=list)


class Failure(ResultPart):
    """A variant whose defense could not act, at one setting and seed; nothing is measured there.

    Attributes:
        setting: Where on the axes.
        at_base: Whether that is the recipe's own setting.
        stage: Stage at which the defense could not act.
        method: The defense.
        reason: Why, as the defense says it.
    """

    variant: str
    setting: Setting
    at_base: bool
    seed: int
    stage: str
    method: str
    reason: str


class Effort(ResultPart):
    """What the last call of the run took, beside what the store held.

    Attributes:
        seconds: Wall-clock time.
        stages: Distinct stages behind all figures.
        made: Stages done in the last call.
        store_bytes: Size of the store.
    """

    seconds: float
    stages: int
    made: int
    store_bytes: int


class Hashes(ResultPart):
    """SHA-256 of the recipe and of each input, as text."""

    recipe: str | None = None
    inputs: dict[str, str] = Field(default_factory=dict)


class Results(ResultPart):
    """The whole of `results.json`.

    Attributes:
        seeds: Seeds of the attack.
        judge: Name of the judge that decides what is harmful.
        majority: Accuracy of always giving the most common answer of the user's task.
        answers: Page of all answers, beside the report.
        escapes: Some prompts that the undefended model answers harmfully.
        stopped: How many of all such prompts the defended model no longer answers harmfully.
        stayed: How many of them it still answers harmfully.
        aligned: The models before fine-tuning, one for each alignment; measured where helpfulness is.
        failures: Where a defense could not act.
        base: The recipe's own setting.
        axes: Values of each axis.
        cells: Every variant at every setting and seed, where there are axes.
        points: The same over seeds.
        front: Variants that none beats in both harmful score and accuracy; see `mithridate.report.front`.
        claims: Claims of the papers, where there are axes.
        effort: Time and stages of the last call.
    """

    name: str = "run"
    created: str | None = None
    command: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    hashes: Hashes = Hashes()
    recipe: dict[str, Any] = Field(default_factory=dict)
    seeds: list[int] = Field(default_factory=list)
    judge: str | None = None
    majority: Share | None = None
    variants: list[VariantResult] = Field(min_length=1)
    escapes: list[Escape] = Field(default_factory=list)
    answers: str | None = None
    stopped: int | None = Field(default=None, ge=0)
    stayed: int | None = Field(default=None, ge=0)
    aligned: list[AlignedModel] = Field(default_factory=list)
    failures: list[Failure] = Field(default_factory=list)
    base: Setting | None = None
    axes: dict[str, list[float] | list[str]] = Field(default_factory=dict)
    cells: list[MeasuredCell] = Field(default_factory=list)
    points: list[AxisPoint] = Field(default_factory=list)
    front: list[str] = Field(default_factory=list)
    claims: list[Claim] = Field(default_factory=list)
    effort: Effort | None = None

    @model_validator(mode="after")
    def _distinct_names(self) -> Self:
        # Points, cells, the front and failures refer to variants by name alone.
        names = [variant.name for variant in self.variants]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two variants are named {twice[0]!r}")
        return self

    def along(self, axis: str) -> list[Setting]:
        """Return the settings of an axis."""
        assert self.base is not None
        # model_copy does not validate: `size` becomes a float here, which equals and hashes like the int in a cell.
        return [self.base.model_copy(update={axis: value}) for value in self.axes[axis]]

    def point(self, variant: str, setting: Setting) -> AxisPoint | None:
        """Return a variant's figures at a setting; None if it was not measured there."""
        # Exact equality of floats is safe: settings on both sides come from the same recipe.
        return next((p for p in self.points if p.variant == variant and p.setting == setting), None)

    def tried(self, axis: str) -> list[str]:
        """Return the names of the variants that were tried at every value of an axis, whether they could act or not."""
        settings = self.along(axis)
        known = {(point.variant, point.setting) for point in self.points}
        # A failure counts as tried: its cell says that the defense cannot act, and the row stays in the table.
        known |= {(failure.variant, failure.setting) for failure in self.failures}
        names = dict.fromkeys([v.name for v in self.variants] + [failure.variant for failure in self.failures])
        return [name for name in names if all((name, setting) in known for setting in settings)]
