"""The parts of a recipe: rows, attack, adapter, training, evaluation."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from mithridate.data import RowFields
from mithridate.errors import RecipeError
from mithridate.experiment.consistency import SCHEDULERS
from mithridate.nearest import did_you_mean

_NUMBERS = (int, float, int | None, float | None)
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What transformers takes as a seed."""

DATA = "$MITHRIDATE_DATA"
"""Placeholder for the folder of third-party data."""


class RecipePart(BaseModel):
    """A part of the recipe; unknown keys are refused, as are numbers without end and truth values for numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_values(cls, value: Any, info: ValidationInfo) -> Any:
        wanted = cls.model_fields[info.field_name or ""].annotation
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, bool) for item in items) and wanted not in (bool, str, str | None):
            raise ValueError(
                "must be a number" if wanted in _NUMBERS else "must not be true or false (put words in quotes)"
            )
        return value


class Source(RecipePart):
    """Rows by name; a bare string stands for ``{source: …}``.

    Attributes:
        source: A path (``$MITHRIDATE_DATA`` is filled in), the name of a hub data set, or ``miniature:…``.
        start: First row to take, in the file's order.
        size: Number of rows to take; all by default.
        fields: Where prompt and response, or the messages, are in rows of no known format.
        ignore: Keys of the rows to leave out on purpose; ``messages.name`` for a key of messages.
        subset: Which subset of a hub data set.
        split: Which split, where there are several.
    """

    source: str
    start: int = Field(0, ge=0)
    size: int | None = Field(None, ge=1)
    fields: RowFields | None = None
    ignore: list[str] = []
    subset: str | None = None
    split: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "Source":
        if self.fields and self.fields.messages is None and self.ignore:
            raise ValueError("with fields, only the columns that they name are read; remove ignore")
        return self

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value


Sources = Source | list[Source]
"""One source, or several whose rows are put one after the other."""


class User(RecipePart):
    """The upload: benign rows of a task, poisoned with harmful ones.

    Attributes:
        benign: Rows of the user's own task.
        harmful: The attacker's rows.
        ratio: p, share of harmful rows.
        size: n, number of rows.
        held_out: Rows of the upload kept out of training, on which ``strength: auto`` measures its budget.
    """

    benign: Sources
    harmful: Sources
    ratio: float = Field(0.1, ge=0, le=1)
    size: int = Field(1000, ge=1)
    held_out: int = Field(0, ge=0)


class Streams(RecipePart):
    """All rows a run uses.

    Attributes:
        user: The upload.
        safe: The provider's safe rows.
        harmful: The provider's harmful rows, disjoint from the upload.
        refusals: Refusal sentences: ``default``, ``miniature:refusals``, a text file with one a line, or a list.
    """

    user: User
    safe: Sources
    harmful: Sources
    refusals: str | list[str] = "default"


class LoraSettings(RecipePart):
    """The adapter (PEFT's ``LoraConfig``)."""

    rank: int = Field(32, ge=1)
    alpha: float = Field(4, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: list[str] | str = ["q_proj", "k_proj", "v_proj"]


class TrainingSettings(RecipePart):
    """How a training stage runs (TRL's ``SFTConfig``).

    Attributes:
        batch_size: Rows per optimizer step.
        accumulation: Micro-batches a step is split into.
        stream_batch_size: Rows of each other stream per step; as many as ``batch_size`` by default.
        save_steps: Optimizer steps between checkpoints.
    """

    epochs: float = Field(20, gt=0)
    learning_rate: float = Field(1e-5, gt=0)
    batch_size: int = Field(16, ge=1)
    accumulation: int = Field(1, ge=1)
    stream_batch_size: int | None = Field(None, ge=1)
    weight_decay: float = Field(0.1, ge=0)
    scheduler: str = "constant"
    warmup_steps: float = Field(0, ge=0)
    max_grad_norm: float = Field(1.0, ge=0)
    gradient_checkpointing: bool = False
    save_steps: int = Field(100, ge=1)

    @model_validator(mode="after")
    def _divides(self) -> "TrainingSettings":
        if self.batch_size % self.accumulation:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of accumulation {self.accumulation}")
        if self.scheduler == "constant" and self.warmup_steps:
            raise ValueError("the scheduler 'constant' has no warm-up; set scheduler to constant_with_warmup")
        return self

    @field_validator("scheduler")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in SCHEDULERS:
            raise ValueError(f"is not a scheduler; {did_you_mean(value, SCHEDULERS)}")
        return value


class TaskMatching(RecipePart):
    """How answers to the user's task are made and matched.

    Attributes:
        kind: How an answer is matched.
        labels: The task's labels, for ``label``.
    """

    kind: Literal["label", "numeric", "exact"] = "label"
    labels: list[str] | None = None
    max_new_tokens: int = Field(16, ge=1)


class Task(TaskMatching):
    """The user's task, on unseen rows.

    Attributes:
        rows: Test rows.
    """

    rows: Sources


class Help(RecipePart):
    """Ordinary prompts, for the helpfulness that is left of the aligned model's.

    Attributes:
        rows: Rows that no stage trains on, whatever the model itself was made from.
        check: ``coherent`` asks that an answer is neither a refusal nor a label, nor too short, nor broken text;
            ``exact`` that it is the row's own answer, where only that one is right.
    """

    rows: Sources
    check: Literal["coherent", "exact"] = "coherent"

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"rows": value} if isinstance(value, str) else value


class JudgeSettings(RecipePart):
    """Which judge decides what is harmful.

    Attributes:
        kind: ``refusal`` (rules), ``classifier`` (a Hugging Face model) or ``chat`` (an OpenAI-compatible endpoint).
        model: Model of the classifier or endpoint.
        url: Base URL of the endpoint.
        api_key_env: Environment variable that holds its key.
        threshold: Score above which the classifier flags an answer.
        refusals: Phrases that the rules take as refusals beside their own, here and wherever refusals are counted;
            ``...`` stands for any words of the same sentence, also in front.
    """

    kind: Literal["refusal", "classifier", "chat"] = "refusal"
    model: str | None = None
    url: str | None = None
    api_key_env: str | None = None
    threshold: float = Field(0.5, gt=0, lt=1)
    refusals: list[str] = []

    @model_validator(mode="after")
    def _complete(self) -> "JudgeSettings":
        needed = {"refusal": (), "classifier": ("model",), "chat": ("model", "url")}[self.kind]
        others = {"refusal": ("refusals",), "classifier": ("threshold",), "chat": ("api_key_env",)}[self.kind]
        used = (*needed, *others)
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"a judge of kind '{self.kind}' needs `{name}`")
        for name, field in type(self).model_fields.items():
            if name not in ("kind", *used) and getattr(self, name) != field.default:
                raise ValueError(f"a judge of kind '{self.kind}' does not read `{name}`; remove it")
        return self


class Evaluation(RecipePart):
    """What is measured.

    Attributes:
        harmful: Unseen harmful prompts.
        task: The user's task.
        look_alikes: Harmless prompts that look harmful, for over-refusal.
        help: Ordinary prompts, for helpfulness; without them no variant is known to be of use.
        judge: The judge.
        max_new_tokens: Longest answer to a prompt.
        batch_size: Prompts per generation batch.
    """

    harmful: Source
    task: Task
    look_alikes: Source | None = None
    help: Help | None = None
    judge: JudgeSettings = JudgeSettings()
    max_new_tokens: int = Field(64, ge=1)
    batch_size: int = Field(64, ge=1)


def resolved_path(source: str, folder: Path, key: str) -> str:
    """Return a source with ``$MITHRIDATE_DATA`` filled in; relative paths are looked up in a folder first.

    Args:
        source: The source as the recipe names it.
        folder: The recipe's folder.
        key: Where the recipe names it, for messages.

    Raises:
        RecipeError: If it uses ``$MITHRIDATE_DATA``, which is not set.
    """
    if DATA in source and not os.environ.get(DATA[1:]):
        raise RecipeError(
            f"{key}: {source} uses {DATA}, which is not set; set MITHRIDATE_DATA to the folder of the data sets"
        )
    filled = source.replace(DATA, os.environ.get(DATA[1:], ""))
    if ":" in filled.split("/")[0] or Path(filled).is_absolute() or not (folder / filled).exists():
        return filled
    return str(folder / filled)


class Axes(RecipePart):
    """Values that are tried one axis at a time; everything else stays as the recipe says.

    Another alignment method is another variant; its strength can be varied by the two axes of alignment.

    Attributes:
        ratio: p, share of harmful rows in the upload.
        learning_rate: Of fine-tuning.
        epochs: Of fine-tuning.
        size: n, rows of the upload.
        alignment_learning_rate: Of alignment.
        alignment_epochs: Of alignment.
    """

    ratio: list[float] = []
    learning_rate: list[float] = []
    epochs: list[float] = []
    size: list[int] = []
    alignment_learning_rate: list[float] = []
    alignment_epochs: list[float] = []

    @model_validator(mode="after")
    def _once(self) -> "Axes":
        for axis, values in self.values().items():
            if len(set(values)) < len(values):
                raise ValueError(f"{axis} holds the same value twice")
        return self

    def values(self) -> dict[str, list[float]]:
        """Return the axes that are varied, their values in rising order."""
        named: dict[str, list[float]] = {axis: sorted(getattr(self, axis)) for axis in type(self).model_fields}
        return {axis: values for axis, values in named.items() if values}
