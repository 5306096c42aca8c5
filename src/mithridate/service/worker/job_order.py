"""What a worker and the process of a job tell each other, in files in the job's folder."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mithridate.errors import DataError, ServiceError
from mithridate.files import write_json
from mithridate.service.contract.job_objects import JobError
from mithridate.service.worker.left_files import own_bytes

ORDER, OUTCOME, FAILURE, PROGRESS = "order.json", "outcome.json", "failure.json", "progress.jsonl"
TRAINING, VALIDATION = "training.jsonl", "validation.jsonl"
STORAGE_FULL = 28
"""Exit status of a job's process that could not even write down that the disk is full."""
STORAGE_SAID = "the disk is full; create the job again when the operator has made room"
DECISION_FOLDER = "out"
"""Folder of the decision and, if released, of the model."""


class _Told(BaseModel):
    # Not NaN either, which no database and no client takes.
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class JobOrder(_Told):
    """What is to be done.

    Attributes:
        model: Folder of the aligned model.
        policy: Policy file; None for the default one.
        epochs: What the customer asks for; None for the policy's.
        rate: Factor on the policy's learning rate, likewise.
        seed: Seed of the training.
        method: Whether the training file holds rows or preference pairs.
        beta: β of DPO that the customer asks for; None for the policy's.
        validation: Whether there is a validation file.
        confined: Folders that the process may read besides its own; None where it is not confined.
        network: Whether it may use the network.
        attempt: Number of the attempt that it is for.
    """

    model: str
    policy: str | None
    epochs: float | None
    rate: float | None
    seed: int
    validation: bool
    method: Literal["supervised", "dpo"] = "supervised"
    beta: float | None = None
    confined: list[str] | None = None
    network: bool = False
    attempt: int = 0


class StepMetrics(_Told):
    """Figures of one optimizer step, under the names that OpenAI's clients know; None where one was not measured.

    Attributes:
        training: Which training it belongs to; a policy's ladder may tune more than once.
        step: Number of the step, from 1.
        total_steps: Steps of the training.
        train_loss: Loss on the step's own rows, in nats per token.
        train_mean_token_accuracy: Share of their tokens that were the likeliest.
        valid_loss: Loss on a sample of the validation file.
        valid_mean_token_accuracy: Likewise.
        full_valid_loss: Loss of the tuned model on the whole validation file; at the last step alone.
        full_valid_mean_token_accuracy: Likewise.
    """

    training: int = 1
    step: int
    total_steps: int
    train_loss: float | None = None
    train_mean_token_accuracy: float | None = None
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None

    def shown(self) -> dict[str, Any]:
        """Return what a customer is shown: what was measured, and which training only where there is a second one."""
        return self.model_dump(exclude_none=True, exclude={"training"} if self.training == 1 else set())


class JobOutcome(_Told):
    """What became of a job whose decision was made.

    Attributes:
        outcome: The decision.
        reasons: Why, one sentence each.
        released: Name of the rung whose model is released.
        policy: Name and SHA-256 of the policy.
        files: SHA-256 of each released file by name.
        findings: Flagged rows, as a customer may see them.
        flagged: How many rows were flagged.
        trained_tokens: Tokens of the upload, times epochs; None where nothing was trained.
        steps: Figures of the fine-tuning behind the released model; of the first one where none is released.
        metrics: Figures of the released model itself.
    """

    outcome: Literal["released", "refused_at_upload", "refused_at_release"]
    reasons: list[str]
    released: str | None
    policy: dict[str, str]
    files: dict[str, str]
    findings: list[dict[str, Any]]
    flagged: int
    trained_tokens: int | None
    steps: list[StepMetrics]
    metrics: dict[str, float] = Field(default_factory=dict)


class JobFailure(_Told, JobError):
    """Why no decision was made, as the client is told."""


class FileRefused(DataError):
    """A file of a job that cannot be used, with its rows at fault.

    Args:
        failure: What the client is told.
    """

    def __init__(self, failure: JobFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class ProgressLine(_Told):
    """One line of a job's progress.

    Attributes:
        kind: ``validated`` once the files were read, ``stage`` at the start of a stage, ``steps`` now and then,
            ``metrics`` with figures of a training.
        message: What to tell the customer.
        done: Work done so far, in thousandths of a stage over all stages.
        total: All of it.
        metrics: The figures, where it tells some.
    """

    kind: Literal["validated", "stage", "steps", "metrics"]
    message: str = ""
    done: int = 0
    total: int = 0
    metrics: list[StepMetrics] = Field(default_factory=list)


def write_told(folder: Path, name: str, told: _Told) -> None:
    """Write a message, whole or not at all."""
    write_json(folder / name, told.model_dump(mode="json"))


def read_outcome(folder: Path) -> JobOutcome | JobFailure | None:
    """Return what a job's process left behind; None where it ended without a word.

    Raises:
        ServiceError: If that is not readable.
    """
    try:
        if (told := own_bytes(folder, OUTCOME)) is not None:
            return JobOutcome.model_validate_json(told)
        if (told := own_bytes(folder, FAILURE)) is not None:
            return JobFailure.model_validate_json(told)
    except ValidationError as error:
        raise ServiceError(f"{folder} holds an outcome that is not of this version; look into its log") from error
    return None
