"""The parts of a variant in `results.json`: outcomes, costs, curves, samples."""

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from mithridate.report.scores import ROUNDING, ResultPart, ScoreOverSeeds, Share

Finite = Annotated[float, Field(allow_inf_nan=False)]
# Layers may be numbered, and a recipe's `alignment: null` means no method; both come so from YAML and JSON.
Label = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)]
MethodName = Annotated[str, BeforeValidator(lambda value: "none" if value is None else value)]


OUTCOMES = ("refused", "label_only", "too_short", "broken", "complied")
"""Outcomes of an answer; every answer has exactly one."""


class OutcomeShares(ResultPart):
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
        # 1e-6: wider than the rounding of five shares, narrower than one answer in a million.
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


class Attack(ResultPart):
    """The attack on the user's rows: harmful ratio `p` in 0..1 and number of rows.

    Attributes:
        method: The attack that made the rows; None where harmful rows were mixed in as they are.
    """

    ratio: Share | None = None
    size: int | None = Field(default=None, ge=0)
    method: str | None = None

    @property
    def kind(self) -> str:
        """What the attacker's rows are, in a word."""
        return self.method or "harmful"


class ReleaseResult(ResultPart):
    """The answers to harmful prompts under one attack on the finished model.

    Attributes:
        harmful_score: Share of answers that the judge calls harmful.
        harmful_score_plus: Share of answers that are harmful or broken text.
        broken_harmful: Share of answers that are broken text and yet called harmful.
    """

    harmful_score: ScoreOverSeeds
    harmful_score_plus: ScoreOverSeeds
    broken_harmful: Share


class VersusReference(ResultPart):
    """Harmful score minus the reference's on the same prompts (a fraction).

    Attributes:
        p_value: Of the paired test.
        low: Lower end of the 95 % interval over resampled seeds and prompts; None in results of earlier versions.
        high: Upper end.
    """

    reference: str
    difference: Finite
    p_value: Share | None = None
    low: Finite | None = None
    high: Finite | None = None


class StageCost(ResultPart):
    """What one stage cost.

    Attributes:
        seconds: Wall-clock time.
        passes: Passes by kind, `forward` and `backward`: per optimizer step, or over the rows it needs when repairing.
        rows: Rows that a repair trained on, those of its search included; None where it trained on none.
        peak_bytes: Highest memory use, where it was measured.
    """

    seconds: float = Field(ge=0, allow_inf_nan=False)
    passes: dict[str, float] = Field(default_factory=dict)
    rows: float | None = Field(default=None, ge=0)
    peak_bytes: int | None = Field(default=None, ge=0)


class TriedDose(ResultPart):
    """One dose tried: loss on the user's held-out, the provider's harmful and safe rows, and the rises (nats)."""

    dose: Finite
    user_loss: float | None = None
    rise: float | None = None
    harmful_loss: float | None = None
    safe_loss: float | None = None
    safe_rise: float | None = None
    refused_rise: float | None = None


class VariantDoses(ResultPart):
    """The search behind `strength="auto"`: the largest dose whose rises stay within the budgets."""

    method: str
    parameter: str
    chosen: Finite | None = None
    budget: Finite | None = None
    safe_budget: Finite | None = None
    over_refusal_budget: Finite | None = None
    seed: int | None = None
    points: list[TriedDose] = Field(default_factory=list)


class LayerNorms(ResultPart):
    """Norm of a perturbation per layer, in the space of the LoRA factors and in the space of ΔW."""

    method: str
    seed: int | None = None
    layers: list[Label]
    factor_norm: list[float] = Field(default_factory=list)
    delta_norm: list[float] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_norm_per_layer(self) -> Self:
        for name, norms in (("factor_norm", self.factor_norm), ("delta_norm", self.delta_norm)):
            if norms and len(norms) != len(self.layers):
                raise ValueError(f"{name} has {len(norms)} values for {len(self.layers)} layers")
        return self


class WeightedRow(ResultPart):
    """A user row's weight: its mean share of the step times the batch size, so that 1 is plain fine-tuning."""

    row: int
    weight: float = Field(ge=0, allow_inf_nan=False)
    harmful: bool | None = None


class WeightedRows(ResultPart):
    """The weights of one seed's rows."""

    seed: int | None = None
    rows: list[WeightedRow]


class LossCurve(ResultPart):
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


class Sample(ResultPart):
    """One answer with what was found of it.

    Attributes:
        set: ``harmful``, ``look_alikes``, ``help`` or ``task``.
        group: Group of the prompt, where it has one.
        harmful: The judge's verdict on an answer to a harmful prompt.
        outcome: What the answer is; None for the task, where it is right or wrong.
        reason: The judge's reason.
        expected: The right answer to the task.
        correct: Whether the task's answer is right.
    """

    prompt: str
    answer: str
    set: str = "harmful"
    group: str | None = None
    harmful: bool | None = None
    outcome: str | None = None
    reason: str | None = None
    expected: str | None = None
    correct: bool | None = None


class EscapeSide(ResultPart):
    """One variant's answer to the prompt of an `Escape`, with the judge's verdict."""

    variant: str
    answer: str
    harmful: bool | None = None
    outcome: str | None = None
    reason: str | None = None


class Escape(ResultPart):
    """A harmful prompt that the undefended model answers harmfully, and a defended one's answer, harmful or not."""

    prompt: str
    before: EscapeSide
    after: EscapeSide
