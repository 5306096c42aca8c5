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


class Sample(Part):
    """One answer and the judge's verdict."""

    prompt: str
    answer: str
    harmful: bool | None = None


class EscapeSide(Part):
    """One variant's answer to the prompt of an `Escape`."""

    variant: str
    answer: str


class Escape(Part):
    """A harmful prompt answered before (without) and after (with) the defenses."""

    prompt: str
    before: EscapeSide
    after: EscapeSide


class VariantResult(Part):
    """Everything measured on one variant of the recipe."""

    name: str
    alignment: MethodName = "none"
    finetuning: MethodName = "none"
    posttuning: MethodName = "none"
    attack: Attack | None = None
    harmful_score: ScoreOverSeeds
    harmful_score_plus: ScoreOverSeeds | None = None
    finetune_accuracy: ScoreOverSeeds | None = None
    over_refusal: ScoreOverSeeds | None = None
    versus_reference: VersusReference | None = None
    cost: dict[str, StageCost] = {}
    dose_curves: list[DoseCurve] = []
    layer_profiles: list[LayerProfile] = []
    row_weights: RowWeights | None = None
    samples: list[Sample] = []
    activity: dict[str, Any] = {}
    folders: list[str] = []


class Hashes(Part):
    """SHA-256 of the recipe and of each input, as text."""

    recipe: str | None = None
    inputs: dict[str, str] = {}


class Results(Part):
    """The whole of `results.json`."""

    name: str = "run"
    created: str | None = None
    command: str | None = None
    versions: dict[str, str] = {}
    hashes: Hashes = Hashes()
    recipe: dict[str, Any] = {}
    seeds: list[int] = []
    variants: list[VariantResult] = Field(min_length=1)
    escapes: list[Escape] = []

    @model_validator(mode="after")
    def _distinct_names(self) -> Self:
        names = [variant.name for variant in self.variants]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two variants are named {twice[0]!r}")
        return self
