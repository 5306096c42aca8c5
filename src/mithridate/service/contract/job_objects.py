"""Fine-tuning jobs, as clients ask for and see them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from mithridate.service.contract.file_objects import RowError
from mithridate.service.jobs.job_states import JobState

Auto = Literal["auto"]
Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=64)],
        Annotated[str, StringConstraints(max_length=512)],
    ],
    Field(max_length=16),
]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Hyperparameters(_Asked):
    """How a model is trained; ``auto`` is the policy's own value."""

    n_epochs: Auto | Annotated[int, Field(strict=True, ge=1, le=50)] = "auto"
    batch_size: Auto | Annotated[int, Field(strict=True, ge=1, le=256)] = "auto"
    learning_rate_multiplier: Auto | Annotated[float, Field(strict=True, gt=0)] = "auto"


class PreferenceHyperparameters(Hyperparameters):
    """How a model is trained on preference pairs; ``auto`` is the policy's own value."""

    beta: Auto | Annotated[float, Field(strict=True, gt=0, le=2)] = "auto"


class PreferenceMethod(_Asked):
    """Direct preference optimization."""

    hyperparameters: PreferenceHyperparameters = PreferenceHyperparameters()


class SupervisedMethod(_Asked):
    """Supervised fine-tuning."""

    hyperparameters: Hyperparameters = Hyperparameters()


class Method(_Asked):
    """The kind of fine-tuning."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: SupervisedMethod | None = None
    dpo: PreferenceMethod | None = None
    reinforcement: dict[str, Any] | None = None

    @property
    def own(self) -> "SupervisedMethod | PreferenceMethod | None":
        """The settings of this kind, where there are some."""
        return self.dpo if self.type == "dpo" else self.supervised


class JobRequest(_Asked):
    """What a client asks for."""

    model: str = Field(min_length=1, max_length=255)
    training_file: str = Field(max_length=255)
    validation_file: str | None = Field(None, max_length=255)
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    suffix: str | None = Field(None, min_length=1, max_length=64)
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**31)] | None = None
    integrations: list[dict[str, Any]] | None = Field(None, max_length=5)
    metadata: Metadata | None = None

    @field_validator("suffix")
    @classmethod
    def _sayable(cls, value: str | None) -> str | None:
        if value is not None and not value.isprintable():
            raise ValueError("must hold printable characters alone")
        return value

    @property
    def chosen(self) -> Hyperparameters:
        """The hyperparameters, wherever they stand."""
        own = None if self.method is None else self.method.own
        if own is not None:
            return own.hyperparameters
        return self.hyperparameters or (PreferenceHyperparameters() if self.kind == "dpo" else Hyperparameters())

    @property
    def kind(self) -> str:
        """The kind of fine-tuning."""
        return "supervised" if self.method is None else self.method.type


class JobError(BaseModel):
    """Why a job failed; ``rows`` and ``row_count`` are ours."""

    code: str
    message: str
    param: str | None = None
    rows: list[RowError] = Field(default_factory=list)
    row_count: int = 0


class JobDecision(BaseModel):
    """What the pipeline decided, in short; the whole is behind the links.

    Attributes:
        outcome: What was decided.
        reasons: Why, one sentence each.
        released: Name of the rung of the policy's ladder whose model is released.
        policy: Name and SHA-256 of the policy.
        findings: The rows that the gate flagged: line, signals and reason.
        flagged: How many these are in all.
        report: Address of the decision as a page.
        decision: Address of the whole decision.
    """

    outcome: Literal["released", "refused_at_upload", "refused_at_release"]
    reasons: list[str]
    released: str | None = None
    policy: dict[str, str]
    findings: list[dict[str, Any]]
    flagged: int
    report: str | None = None
    decision: str | None = None


class JobObject(BaseModel):
    """A job; ``decision``, ``progress`` and ``attempts`` are ours."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    error: JobError | None
    fine_tuned_model: str | None
    finished_at: int | None
    hyperparameters: Hyperparameters
    model: str
    organization_id: str
    result_files: list[str]
    seed: int
    status: JobState
    trained_tokens: int | None
    training_file: str
    validation_file: str | None
    estimated_finish: int | None
    integrations: list[dict[str, Any]] | None = None
    metadata: dict[str, str] | None
    method: Method
    decision: JobDecision | None
    progress: dict[str, int]
    attempts: int


class JobEventObject(BaseModel):
    """One thing that happened to a job."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any]


class CheckpointObject(BaseModel):
    """A model of a job. There is one, the released model itself: no other weights are judged, so no others leave."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: dict[str, float]
    step_number: int
