"""Defines what each stage found: one typed record per kind of stage, stored as JSON and validated when read back.

Records hold what was found about every answer, not shares, so that intervals and paired tests need no new run.
"""

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from mithridate.evaluation.completion_loss import CompletionLoss
from mithridate.evaluation.outcomes import Outcome
from mithridate.repair.repaired import DoseCurve, LayerProfile


class Cost(BaseModel):
    """What one stage cost.

    Attributes:
        seconds: Wall-clock time.
        passes: Forward and backward passes, per optimizer step, or over the rows it needs for a repair.
        rows: Rows that a repair trained on, those of its search included; None where it trained on none.
        peak_bytes: Highest memory use.
    """

    model_config = ConfigDict(extra="forbid")

    seconds: float
    passes: dict[str, float]
    rows: float | None = None
    peak_bytes: int


class LoggedLoss(NamedTuple):
    """Training loss at an optimizer step, as the trainer's state logs it."""

    step: float
    loss: float


class TrainingRecord(BaseModel):
    """What a training stage found.

    Attributes:
        activity: Figures that prove that the defense acted.
        losses: The logged losses.
        dropped_rows: Rows left out because no token of their completion fits.
        resumed_from: Checkpoint from which the training resumed; None if it ran in one go.
        processes: How many shared its optimizer steps; the last ones, where it was resumed.
        merging: What merging the adapter lost, see `mithridate.models.merge_loss`; None where it was not trained on a
            quantized base or not merged.
    """

    model_config = ConfigDict(extra="forbid")

    cost: Cost
    # Both types: with float alone, a count of rows or weights would come back from the store as 3.0.
    activity: dict[str, int | float]
    losses: list[LoggedLoss]
    dropped_rows: int
    resumed_from: str | None
    processes: int = 1
    merging: dict[str, float] | None = None


class RepairRecord(BaseModel):
    """What a post-tuning stage found; the figures are those of `mithridate.repair.repaired.Repaired`."""

    model_config = ConfigDict(extra="forbid")

    cost: Cost
    changed: int
    distance: float
    activity: dict[str, int | float]
    dose_curve: DoseCurve | None
    layer_profile: LayerProfile | None


class HelpRecord(BaseModel):
    """What the answers to ordinary prompts are, in the order of the prompts.

    Attributes:
        outcomes: What each answer is, by rules alone.
        right: Whether each answer is the row's own; None if no answer is the only right one.
        surprise: Nats per token of each answer under the aligned model; None if that was not measured.
        losses: Nats and tokens of the rows' own answers.
    """

    model_config = ConfigDict(extra="forbid")

    outcomes: list[Outcome]
    right: list[bool] | None
    surprise: list[float] | None
    losses: list[CompletionLoss]


class ReleaseRecord(BaseModel):
    """What the answers to harmful prompts are under one attack on the finished model, in the order of the prompts.

    Attributes:
        harmful: Whether each answer is harmful.
        harmful_or_broken: Whether it is harmful or broken text.
        outcomes: What each of these answers is.
        correct: Whether each answer to the user's task is right under the attack.
    """

    model_config = ConfigDict(extra="forbid")

    harmful: list[bool]
    harmful_or_broken: list[bool]
    outcomes: list[Outcome]
    correct: list[bool]


class EvaluationRecord(BaseModel):
    """What an evaluation found, in the order of the prompts.

    Attributes:
        judge: Name of the judge.
        harmful: Whether each answer to a harmful prompt is harmful.
        harmful_or_broken: Whether it is harmful or broken text.
        outcomes: What each of these answers is.
        correct: Whether each answer to the user's task is right.
        majority: Accuracy of always giving the task's most common answer; None where there was no task.
        refused: Whether each look-alike was refused; None if there are none.
        look_alikes: What each answer to a look-alike is.
        help: The ordinary prompts; None if there are none.
        harmful_groups: The group of each harmful prompt; None if they have none.
        look_alike_groups: The group of each look-alike; None if they have none.
        further: What each further judge calls harmful, in the order of the judges; two of them may share a name.
        release: The harmful prompts again, under each attack on the finished model.
    """

    model_config = ConfigDict(extra="forbid")

    judge: str
    harmful: list[bool]
    harmful_or_broken: list[bool]
    outcomes: list[Outcome]
    correct: list[bool]
    majority: float | None
    refused: list[bool] | None
    look_alikes: list[Outcome] | None
    help: HelpRecord | None
    harmful_groups: list[str] | None
    look_alike_groups: list[str] | None
    further: list[list[bool]]
    release: dict[str, ReleaseRecord] = {}


class CandidateRecord(BaseModel):
    """What a model ready for release is.

    Attributes:
        files: SHA-256 of each file by name.
        merging: As of a training.
    """

    model_config = ConfigDict(extra="forbid")

    files: dict[str, str]
    merging: dict[str, float] | None = None


StageRecord = TrainingRecord | RepairRecord | CandidateRecord | EvaluationRecord
