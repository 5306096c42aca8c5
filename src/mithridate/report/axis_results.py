"""What a recipe with axes adds to `results.json`: cells, points over seeds, and claims with their answers."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from mithridate.report.scores import ScoreOverSeeds

ClaimAnswer = Literal["supported", "not supported", "not measured"]
UnitShare = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Setting(_Strict):
    """A place on the axes.

    Attributes:
        ratio: p, share of harmful rows in the upload.
        learning_rate: Learning rate of fine-tuning.
        epochs: Epochs of fine-tuning.
        size: n, rows of the upload.
        alignment_learning_rate: Learning rate of alignment.
        alignment_epochs: Epochs of alignment.
        attack: The attack that makes the upload; None where harmful rows are mixed in as they are.
    """

    # Frozen makes it hashable: cells and points are looked up by their setting.
    model_config = ConfigDict(extra="forbid", frozen=True)

    ratio: float
    learning_rate: float
    epochs: float
    size: int
    alignment_learning_rate: float
    alignment_epochs: float
    attack: str | None = None


AXES = tuple(Setting.model_fields)


def plain_value(value: float | str | None) -> str:
    """Return a value of an axis as text."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else f"{value:g}"


class MeasuredCell(_Strict):
    """One variant at one setting and one seed.

    Attributes:
        helpfulness: Share of ordinary prompts that are helped.
        row_weight_auc: Chance that a benign row's mean weight is above a harmful row's, where rows were weighted.
        distance: L2 norm of the change of a single post-tuning defense.
        evaluation: Key of the evaluation in the store.
    """

    variant: str
    setting: Setting
    seed: int
    harmful_score: ScoreOverSeeds
    finetune_accuracy: ScoreOverSeeds
    over_refusal: ScoreOverSeeds | None = None
    helpfulness: ScoreOverSeeds | None = None
    row_weight_auc: UnitShare | None = None
    distance: float | None = None
    evaluation: str = ""


class AxisPoint(_Strict):
    """One variant at one setting, all seeds together."""

    variant: str
    setting: Setting
    harmful_score: ScoreOverSeeds
    finetune_accuracy: ScoreOverSeeds
    over_refusal: ScoreOverSeeds | None = None
    helpfulness: ScoreOverSeeds | None = None


class Estimate(_Strict):
    """One line of a claim's table.

    Attributes:
        what: What was estimated.
        value: Estimate; a fraction, or an AUC.
        low: Lower end of the 95 % interval; None where there are too few seeds for one.
        high: Upper end.
        interval: How the interval was computed.
        seeds: Figure of each seed, where the estimate is their mean.
        plotted: Whether the claim's figure shows it.
        decides: Whether the answer rests on it.
    """

    what: str
    value: float
    low: float | None = None
    high: float | None = None
    interval: str
    seeds: list[float] = []
    plotted: bool = True
    decides: bool = False


class Claim(_Strict):
    """A claim of the papers with its measured answer.

    Attributes:
        name: Short name.
        claim: What is claimed.
        verdict: The answer.
        sentence: The reason for the verdict.
        unit: ``points`` (differences of shares) or ``AUC``.
        quantity: Label of the figure's axis.
        neutral: Value that means no effect.
        rows: The lines of its table.
    """

    name: str
    claim: str
    verdict: ClaimAnswer
    sentence: str
    unit: Literal["points", "AUC"]
    quantity: str
    neutral: float
    rows: list[Estimate]
