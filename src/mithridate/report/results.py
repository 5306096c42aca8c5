"""The structure of `results.json`, defined once: the pipeline writes it and the report reads it.

Shares (harmful score, accuracy, over-refusal) are fractions in 0..1; percent exists on display only. Keys this file
does not name are kept, and an optional part that is missing is not shown.
"""

from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

# A Wilson bound may leave 0..1 by one rounding error.
ROUNDING = 1e-9

Share = Annotated[float, Field(ge=-ROUNDING, le=1 + ROUNDING, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Label = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)]
MethodName = Annotated[str, BeforeValidator(lambda value: "none" if value is None else value)]


OUTCOMES = ("refused", "label_only", "too_short", "broken", "complied")
"""What an answer is, exactly one of them."""


class Part(BaseModel):
    """Base of every part: unknown keys are kept, and numbers that are not finite are written as null."""

    model_config = ConfigDict(extra="allow", ser_json_inf_nan="null")


class ScoreOverSeeds(Part):
    """A share of answers, pooled over the seeds.

    Attributes:
        value: Share in 0..1.
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
        n: Number of judged answers.
        seeds: The share of each seed, in the order of `Results.seeds`.
    """

    value: Share
    low: Share
    high: Share
    n: int = Field(ge=0)
    seeds: list[Share] = []

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"the interval is upside down: low {self.low} is above high {self.high}")
        return self


class OutcomeShares(Part):
    """What the answers to one set of prompts are: five shares that sum to 1.

    Attributes:
        n: Number of answers, of all seeds.
        refused: Open as a refusal.
        label_only: Nothing but a label of the user's task.
        too_short: Empty, or too few words.
        broken: Loops and other text that says nothing.
        complied: Coherent answers.
    """

    n: int = Field(ge=1)
    refused: Share
    label_only: Share
    too_short: Share
    broken: Share
    complied: Share

    @model_validator(mode="after")
    def _whole(self) -> Self:
        total = sum(getattr(self, name) for name in OUTCOMES)
        if abs(total - 1) > ROUNDING * 1000:
            raise ValueError(f"the outcomes sum to {total:g}, not to 1")
        return self

    @property
    def silent(self) -> float:
        """Share of answers that neither refuse nor comply: labels, too little, broken text."""
        return self.label_only + self.too_short + self.broken


class Helpfulness(ScoreOverSeeds):
    """Share of ordinary prompts that are still helped: coherent, no refusal, no label, right where that is known.

    Attributes:
        aligned: The same share for the model before fine-tuning.
        kept: The share divided by the aligned model's; None where that is 0.
        kept_low: Lower end of the interval, divided likewise; the aligned share is taken without error.
        kept_high: Upper end.
        loss: Mean nats per token of the rows' own answers.
        aligned_loss: The same for the model before fine-tuning.
    """

    aligned: Share
    kept: Finite | None = None
    kept_low: Finite | None = None
    kept_high: Finite | None = None
    loss: Finite | None = None
    aligned_loss: Finite | None = None


class Attack(Part):
    """The attack on the user's rows: harmful ratio `p` in 0..1 and number of rows."""

    ratio: Share | None = None
    size: int | None = Field(default=None, ge=0)


class VersusReference(Part):
    """Harmful score minus the reference's on the same prompts (a fraction), with the paired test's p-value."""

    reference: str
    difference: Finite
    p_value: Share | None = None


class StageCost(Part):
    """What one stage cost.

    Attributes:
        seconds: Wall-clock time.
        passes: Passes by kind, `forward` and `backward`: per optimizer step, or over the harmful rows when repairing.
        peak_bytes: Highest memory use, where it was measured.
    """

    seconds: float = Field(ge=0, allow_inf_nan=False)
    passes: dict[str, float] = {}
    peak_bytes: int | None = Field(default=None, ge=0)


class DosePoint(Part):
    """One dose tried: mean loss on the user's held-out rows, its rise over dose zero, loss on harmful rows (nats)."""

    dose: Finite
    user_loss: float | None = None
    rise: float | None = None
    harmful_loss: float | None = None


class DoseCurve(Part):
    """The search behind `strength="auto"`: the largest dose whose rise stays within the budget."""

    method: str
    parameter: str
    chosen: Finite | None = None
    budget: Finite | None = None
    seed: int | None = None
    points: list[DosePoint] = []


class LayerProfile(Part):
    """Norm of a perturbation per layer, in the space of the LoRA factors and in the space of ΔW."""

    method: str
    seed: int | None = None
    layers: list[Label]
    factor_norm: list[float] = []
    delta_norm: list[float] = []

    @model_validator(mode="after")
    def _one_norm_per_layer(self) -> Self:
        for name, norms in (("factor_norm", self.factor_norm), ("delta_norm", self.delta_norm)):
            if norms and len(norms) != len(self.layers):
                raise ValueError(f"{name} has {len(norms)} values for {len(self.layers)} layers")
        return self


class WeightedRow(Part):
    """A user row's weight: its mean share of the step times the batch size, so that 1 is plain fine-tuning."""

    row: int
    weight: float = Field(ge=0, allow_inf_nan=False)
    harmful: bool | None = None


class RowWeights(Part):
    """The weights of one seed's rows."""

    seed: int | None = None
    rows: list[WeightedRow]


class LossCurve(Part):
    """Training loss as it was logged, in nats per token of the defense's own objective.

    Attributes:
        stage: ``alignment`` or ``finetuning``.
        key: Which training it was; variants that share one have the same.
    """

    stage: str
    method: str
    seed: int | None = None
    key: str = ""
    steps: list[float]
    losses: list[float | None]

    @model_validator(mode="after")
    def _one_loss_per_step(self) -> Self:
        if len(self.steps) != len(self.losses):
            raise ValueError(f"losses has {len(self.losses)} values for {len(self.steps)} steps")
        return self


class Sample(Part):
    """One answer with what was found of it.

    Attributes:
        set: ``harmful``, ``look_alikes``, ``help`` or ``task``.
        harmful: The judge's verdict on an answer to a harmful prompt.
        outcome: What the answer is; None for the task, where it is right or wrong.
        reason: The judge's.
        expected: The right answer of the task.
        correct: Whether the task's answer is right.
    """

    prompt: str
    answer: str
    set: str = "harmful"
    harmful: bool | None = None
    outcome: str | None = None
    reason: str | None = None
    expected: str | None = None
    correct: bool | None = None


class EscapeSide(Part):
    """One variant's answer to the prompt of an `Escape`, with the judge's verdict."""

    variant: str
    answer: str
    harmful: bool | None = None
    outcome: str | None = None
    reason: str | None = None


class Escape(Part):
    """A harmful prompt that the undefended model answers harmfully, and a defended one's answer, harmful or not."""

    prompt: str
    before: EscapeSide
    after: EscapeSide


class VariantResult(Part):
    """Everything measured on one variant of the recipe.

    Attributes:
        harmful_score: Share of answers that the judge calls harmful, broken text included where it does so.
        harmful_score_plus: Share of answers that are harmful or broken text.
        over_refusal: Share of look-alikes that are refused; an answer of another kind is no refusal.
        outcomes: What the answers are, by set: ``harmful``, ``look_alikes``, ``help``.
        broken_harmful: Share of answers to harmful prompts that are broken text and yet called harmful.
    """

    name: str
    alignment: MethodName = "none"
    finetuning: MethodName = "none"
    posttuning: MethodName = "none"
    attack: Attack | None = None
    harmful_score: ScoreOverSeeds
    harmful_score_plus: ScoreOverSeeds | None = None
    finetune_accuracy: ScoreOverSeeds | None = None
    over_refusal: ScoreOverSeeds | None = None
    helpfulness: Helpfulness | None = None
    outcomes: dict[str, OutcomeShares] = {}
    broken_harmful: Share | None = None
    versus_reference: VersusReference | None = None
    cost: dict[str, StageCost] = {}
    dose_curves: list[DoseCurve] = []
    layer_profiles: list[LayerProfile] = []
    row_weights: RowWeights | None = None
    loss_curves: list[LossCurve] = []
    samples: list[Sample] = []
    activity: dict[str, Any] = {}
    folders: list[str] = []


class Hashes(Part):
    """SHA-256 of the recipe and of each input, as text."""

    recipe: str | None = None
    inputs: dict[str, str] = {}


class Results(Part):
    """The whole of `results.json`.

    Attributes:
        judge: Who decides what is harmful.
        majority: Accuracy of always giving the most common answer of the user's task.
        answers: Page of all answers, beside the report.
        escapes: Some prompts that the undefended model answers harmfully.
        stopped: Number of prompts among the escapes' that the defended model does not answer harmfully any more.
        stayed: Number of those that it still does.
    """

    name: str = "run"
    created: str | None = None
    command: str | None = None
    versions: dict[str, str] = {}
    hashes: Hashes = Hashes()
    recipe: dict[str, Any] = {}
    seeds: list[int] = []
    judge: str | None = None
    majority: Share | None = None
    variants: list[VariantResult] = Field(min_length=1)
    escapes: list[Escape] = []
    answers: str | None = None
    stopped: int | None = Field(default=None, ge=0)
    stayed: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _distinct_names(self) -> Self:
        names = [variant.name for variant in self.variants]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two variants are named {twice[0]!r}")
        return self
