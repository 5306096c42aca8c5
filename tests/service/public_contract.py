"""The public contract as far as the service speaks it: what each answer must hold, in our words.

Written from the table of the contract, not from our classes, so that a field we lose or rename is found. Extra fields
are allowed, as the contract's clients keep those they do not know.
"""

from typing import Any

TEXT, COUNT, YES, ANY = {"type": "string"}, {"type": "integer"}, {"const": True}, {}
ID = {"type": "string", "minLength": 1}
TIME = {"type": "integer", "minimum": 0}


def maybe(schema: Any) -> Any:
    return {"anyOf": [schema, {"type": "null"}]}


def one_of(*values: str) -> Any:
    return {"enum": list(values)}


def thing(kind: str | None, optional: tuple[str, ...] = (), **fields: Any) -> Any:
    """An object of a kind, with required and optional fields."""
    fields = fields if kind is None else {"object": {"const": kind}, **fields}
    return {"type": "object", "properties": fields, "required": sorted(set(fields) - set(optional))}


def page(item: Any) -> Any:
    fields = {"data": {"type": "array", "items": item}, "has_more": {"type": "boolean"}}
    return thing("list", ("first_id", "last_id"), **fields, first_id=maybe(ID), last_id=maybe(ID))


def choice(low: float, high: float | None, whole: bool) -> Any:
    number: dict[str, Any] = {"type": "integer" if whole else "number", "minimum": low}
    return {"anyOf": [{"const": "auto"}, number if high is None else {**number, "maximum": high}]}


HYPERPARAMETERS = thing(
    None,
    ("n_epochs", "batch_size", "learning_rate_multiplier"),
    n_epochs=choice(1, 50, True),
    batch_size=choice(1, 256, True),
    learning_rate_multiplier=choice(0, None, False),
)
METHOD = thing(
    None,
    ("supervised", "dpo", "reinforcement"),
    type=one_of("supervised", "dpo", "reinforcement"),
    supervised=maybe(thing(None, ("hyperparameters",), hyperparameters=HYPERPARAMETERS)),
    dpo=maybe({"type": "object"}),
    reinforcement=maybe({"type": "object"}),
)
FILE = thing(
    "file",
    ("expires_at", "status_details"),
    id=ID,
    bytes=COUNT,
    created_at=TIME,
    expires_at=maybe(TIME),
    filename=TEXT,
    purpose=one_of("fine-tune", "fine-tune-results"),
    status=one_of("uploaded", "processed", "error"),
    status_details=maybe(TEXT),
)
UPLOAD = thing(
    "upload",
    ("file",),
    id=ID,
    bytes=COUNT,
    created_at=TIME,
    expires_at=TIME,
    filename=TEXT,
    purpose=TEXT,
    status=one_of("pending", "completed", "cancelled", "expired"),
    file=maybe(FILE),
)
PART = thing("upload.part", id=ID, created_at=TIME, upload_id=ID)
JOB = thing(
    "fine_tuning.job",
    ("estimated_finish", "integrations", "metadata", "method"),
    id=ID,
    created_at=TIME,
    error=maybe(thing(None, code=TEXT, message=TEXT, param=maybe(TEXT))),
    fine_tuned_model=maybe({"type": "string", "pattern": r"^ft:[^:]+:[^:]+:[^:]*:[^:]+$"}),
    finished_at=maybe(TIME),
    hyperparameters=HYPERPARAMETERS,
    model=TEXT,
    organization_id=TEXT,
    result_files={"type": "array", "items": ID},
    # The contract's own list lacks `paused`, which its own example of pausing answers.
    status=one_of("validating_files", "queued", "running", "succeeded", "failed", "cancelled", "paused"),
    trained_tokens=maybe(COUNT),
    training_file=ID,
    validation_file=maybe(ID),
    seed=COUNT,
    estimated_finish=maybe(TIME),
    integrations=maybe({"type": "array"}),
    metadata=maybe(
        {
            "type": "object",
            "maxProperties": 16,
            "propertyNames": {"maxLength": 64},
            "additionalProperties": {"type": "string", "maxLength": 512},
        }
    ),
    method=METHOD,
)
EVENT = thing(
    "fine_tuning.job.event",
    ("type", "data"),
    id=ID,
    created_at=TIME,
    level=one_of("info", "warn", "error"),
    message=TEXT,
    type=one_of("message", "metrics"),
    data=maybe({"type": "object"}),
)
METRICS = (
    "step", "train_loss", "train_mean_token_accuracy", "valid_loss", "valid_mean_token_accuracy", "full_valid_loss",
    "full_valid_mean_token_accuracy",
)  # fmt: skip
CHECKPOINT = thing(
    "fine_tuning.job.checkpoint",
    id=ID,
    created_at=TIME,
    fine_tuned_model_checkpoint={"type": "string", "pattern": r":ckpt-step-\d+$"},
    fine_tuning_job_id=ID,
    metrics=thing(None, METRICS, **{name: {"type": "number"} for name in METRICS}),
    step_number=COUNT,
)
PERMISSION = thing("checkpoint.permission", id=ID, created_at=TIME, project_id=ID)
MODEL = thing("model", id=ID, created=TIME, owned_by=TEXT)
USAGE = thing(None, prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT)
CHAT = thing(
    "chat.completion",
    id=ID,
    created=TIME,
    model=TEXT,
    usage=USAGE,
    choices={
        "type": "array",
        "minItems": 1,
        "items": thing(
            None,
            ("logprobs",),
            index=COUNT,
            finish_reason=one_of("stop", "length"),
            logprobs=maybe(ANY),
            message=thing(None, role={"const": "assistant"}, content=maybe(TEXT), refusal=maybe(TEXT)),
        ),
    },
)
ERROR = thing(None, error=thing(None, message=ID, type=ID, param=maybe(TEXT), code=maybe(TEXT)))


def deleted(kind: str) -> Any:
    return thing(kind, id=ID, deleted=YES)


_JOBS, _SHARING = "/v1/fine_tuning/jobs", "/v1/fine_tuning/checkpoints/{model}/permissions"
ANSWERS = {
    ("POST", "/v1/files"): FILE,
    ("GET", "/v1/files"): page(FILE),
    ("GET", "/v1/files/{file_id}"): FILE,
    ("DELETE", "/v1/files/{file_id}"): deleted("file"),
    ("GET", "/v1/files/{file_id}/content"): None,
    ("POST", "/v1/uploads"): UPLOAD,
    ("POST", "/v1/uploads/{upload_id}/parts"): PART,
    ("POST", "/v1/uploads/{upload_id}/complete"): UPLOAD,
    ("POST", "/v1/uploads/{upload_id}/cancel"): UPLOAD,
    ("POST", _JOBS): JOB,
    ("GET", _JOBS): page(JOB),
    ("GET", f"{_JOBS}/{{job_id}}"): JOB,
    **{("POST", f"{_JOBS}/{{job_id}}/{verb}"): JOB for verb in ("cancel", "pause", "resume")},
    ("GET", f"{_JOBS}/{{job_id}}/events"): page(EVENT),
    ("GET", f"{_JOBS}/{{job_id}}/checkpoints"): page(CHECKPOINT),
    ("POST", _SHARING): page(PERMISSION),
    ("GET", _SHARING): page(PERMISSION),
    ("DELETE", f"{_SHARING}/{{permission_id}}"): deleted("checkpoint.permission"),
    ("GET", "/v1/models"): thing("list", data={"type": "array", "items": MODEL}),
    ("GET", "/v1/models/{model:path}"): MODEL,
    ("DELETE", "/v1/models/{model:path}"): deleted("model"),
    ("POST", "/v1/chat/completions"): CHAT,
}
"""What a request that is carried out answers; None for a file's own bytes."""
