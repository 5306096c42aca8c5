"""The structure of `comparison.json`. Shares are fractions in 0..1; percent exists on display only."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

AXES = ("ratio", "learning_rate", "epochs", "size")

Verdict = Literal["supported", "not supported", "not measured"]


class Part(BaseModel):
    """Base of every part; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


class Setting(Part):
    """A place on the axes.

    Attributes:
        ratio: p, share of harmful rows in the upload.
        learning_rate: Of fine-tuning.
        epochs: Of fine-tuning.
        size: n, rows of the upload.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ratio: float
    learning_rate: float
    epochs: float
    size: int


class Pipeline(Part):
    """A chain of defenses; ``none`` and ``sft`` are none.

    Attributes:
        posttuning: Methods in their order.
        ratio: Harmful ratio of its own, where it has one; it then stays out of the axes.
        role: What it is for the claims; see `mithridate.compare.roles`.
    """

    name: str
    alignment: str
    finetuning: str
    posttuning: list[str]
    ratio: float | None = None
    role: str


class Share(Part):
    """A count of answers as a share, with its Wilson interval."""

    count: int
    n: int
    value: float
    low: float
    high: float


class Cell(Part):
    """One pipeline at one setting and one seed.

    Attributes:
        helpfulness: Share of ordinary prompts that are helped.
        row_weight_auc: Chance that a benign row's mean weight is above a harmful row's, where rows were weighted.
        distance: L2 norm of the change of a single post-tuning defense.
        evaluation: Key of the evaluation in the store.
    """

    pipeline: str
    setting: Setting
    seed: int
    harmful_score: Share
    finetune_accuracy: Share
    over_refusal: Share | None = None
    helpfulness: Share | None = None
    row_weight_auc: float | None = None
    distance: float | None = None
    evaluation: str = ""


class Interval(Part):
    """Ends of a 95 % interval."""

    low: float
    high: float


class Pooled(Part):
    """The share over all answers of all seeds and its Wilson interval, widened by overdispersion between seeds."""

    value: float
    low: float
    high: float
    n: int


class Measure(Part):
    """A share over several seeds, summed up in two ways.

    Attributes:
        seeds: Share of each seed, in the order of `Comparison.seeds`.
        seed_mean: Their mean.
        seed_t95: Student's t interval of the mean, whose unit is the seed; None with a single seed.
        pooled_wilson95: All answers together.
    """

    seeds: list[float]
    seed_mean: float
    seed_t95: Interval | None
    pooled_wilson95: Pooled

    @property
    def shown(self) -> tuple[float, float]:
        """The interval that tables and plots show: over seeds where there are several, Wilson's otherwise."""
        ends = self.seed_t95 or self.pooled_wilson95
        return ends.low, ends.high


class Point(Part):
    """One pipeline at one setting, all seeds together."""

    pipeline: str
    setting: Setting
    harmful_score: Measure
    finetune_accuracy: Measure
    over_refusal: Measure | None = None
    helpfulness: Measure | None = None


class Row(Part):
    """One line of a claim's table.

    Attributes:
        what: What was estimated.
        value: Estimate; a fraction, or an AUC.
        low: Lower end of the 95 % interval; None where there are too few seeds for one.
        high: Upper end.
        interval: How it was made.
        seeds: Figure of each seed, where the estimate is their mean.
        plotted: Whether the claim's figure shows it.
        decides: Whether the verdict rests on it.
    """

    what: str
    value: float
    low: float | None = None
    high: float | None = None
    interval: str
    seeds: list[float] = []
    plotted: bool = True
    decides: bool = False


class Claim(Part):
    """A claim with its measured answer.

    Attributes:
        name: Short name.
        claim: What is claimed.
        verdict: The answer.
        sentence: Why.
        unit: ``points`` (differences of shares) or ``AUC``.
        quantity: What the figure's axis shows.
        neutral: Value that would mean no effect.
        rows: The table.
    """

    name: str
    claim: str
    verdict: Verdict
    sentence: str
    unit: Literal["points", "AUC"]
    quantity: str
    neutral: float
    rows: list[Row]


class Run(Part):
    """What differs between two calls that give the same comparison.

    Attributes:
        seconds: Wall-clock time of this call.
        made: Stages done in this call; the others were in the store.
        store_bytes: Size of the store.
    """

    created: str
    command: str | None
    seconds: float
    made: int
    store_bytes: int


class Comparison(Part):
    """The whole of `comparison.json`.

    Attributes:
        base: The recipe's own setting.
        axes: Values of each axis.
        stages: Distinct stages behind all cells.
        front: Pipelines at the recipe's setting that none beats in both harmful score and accuracy, among those that
            keep the undefended pipeline's answers to harmless prompts.
    """

    name: str
    seeds: list[int] = Field(min_length=1)
    base: Setting
    axes: dict[str, list[float]]
    pipelines: list[Pipeline]
    cells: list[Cell]
    points: list[Point]
    front: list[str]
    claims: list[Claim]
    stages: int
    recipe: dict[str, Any]
    hashes: dict[str, str]
    versions: dict[str, str]
    run: Run

    def along(self, axis: str) -> list[Setting]:
        """The settings of an axis."""
        return [self.base.model_copy(update={axis: value}) for value in self.axes[axis]]

    def point(self, pipeline: str, setting: Setting) -> Point | None:
        """A pipeline's figures at a setting; None if it was not measured there."""
        return next((p for p in self.points if p.pipeline == pipeline and p.setting == setting), None)

    def over(self, axis: str) -> list[Pipeline]:
        """The pipelines that were measured along an axis."""
        settings = self.along(axis)
        return [p for p in self.pipelines if all(self.point(p.name, setting) for setting in settings)]
