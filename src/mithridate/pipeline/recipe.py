"""What a run is: model, rows, attack, a defense per stage, evaluation, variants."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from mithridate.data import RowFields
from mithridate.defenses.registry import method
from mithridate.errors import RecipeError, SettingError
from mithridate.nearest import did_you_mean
from mithridate.pipeline.consistency import SCHEDULERS, check_variant
from mithridate.settings import Settings, Stage

_NUMBERS = (int, float, int | None, float | None)
_Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Part(BaseModel):
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


class Source(Part):
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


class User(Part):
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


class Streams(Part):
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


class Lora(Part):
    """The adapter (PEFT's ``LoraConfig``)."""

    rank: int = Field(32, ge=1)
    alpha: float = Field(4, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: list[str] | str = ["q_proj", "k_proj", "v_proj"]


class Training(Part):
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
    def _divides(self) -> "Training":
        if self.batch_size % self.accumulation:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of accumulation {self.accumulation}")
        if self.scheduler == "constant" and self.warmup_steps:
            raise ValueError("the scheduler 'constant' has no warm-up; set scheduler to constant_with_warmup")
        return self

    @field_validator("scheduler")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in SCHEDULERS:
            raise ValueError(f"is no scheduler; {did_you_mean(value, SCHEDULERS)}")
        return value


class Task(Part):
    """The user's task, on unseen rows.

    Attributes:
        rows: Test rows.
        kind: How an answer is matched.
        labels: The task's labels, for ``label``.
    """

    rows: Sources
    kind: Literal["label", "numeric", "exact"] = "label"
    labels: list[str] | None = None
    max_new_tokens: int = Field(16, ge=1)


class Help(Part):
    """Ordinary prompts, for the helpfulness that is left of the aligned model's.

    Attributes:
        rows: Rows that no stage trains on, whatever the model itself was made from.
        check: ``coherent`` asks of an answer that it is no refusal, no label, not too short and no broken text;
            ``exact`` that it is the row's own answer, where only that one is right.
    """

    rows: Sources
    check: Literal["coherent", "exact"] = "coherent"

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"rows": value} if isinstance(value, str) else value


class JudgeSpec(Part):
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
    def _complete(self) -> "JudgeSpec":
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


class Evaluation(Part):
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
    judge: JudgeSpec = JudgeSpec()
    max_new_tokens: int = Field(64, ge=1)
    batch_size: int = Field(64, ge=1)


class Choice(Part):
    """A defense and its settings; a bare name stands for its defaults."""

    model_config = ConfigDict(extra="allow")

    method: str

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"method": value} if isinstance(value, str) else value

    def build(self, stage: Stage) -> Settings:
        """The defense object.

        Raises:
            UsageError: If the name is unknown or the method does not act at this stage.
            RecipeError: If a setting is unknown or out of range.
        """
        cls = method(self.method, stage).cls
        try:
            return cls(**(self.model_extra or {}))
        except SettingError as error:
            raise RecipeError(f"{self.method}: {error.fault}") from error


class Variant(Part):
    """One row of the table.

    Attributes:
        name: Name, also of its folder.
        alignment: Defense at alignment; ``none`` takes the model as it is.
        finetuning: Defense at fine-tuning; ``none`` skips the user's data.
        posttuning: Defenses after fine-tuning, one after the other.
        ratio: p of this variant, where it differs from the recipe's.
    """

    name: str = Field(pattern=r"^[\w.-]+$")
    alignment: Choice = Choice(method="sft")
    finetuning: Choice = Choice(method="sft")
    posttuning: list[Choice] = []
    ratio: float | None = Field(None, ge=0, le=1)

    @field_validator("posttuning", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        if value is None or value == "none":
            return []
        return value if isinstance(value, list) else [value]


class Recipe(Part):
    """The whole run.

    Attributes:
        name: Title of the report.
        model: Path, hub id, or ``miniature:base``.
        template: Chat template for a tokenizer without one: ``alpaca`` or a ``.jinja`` file.
        precision: Type of the weights; with ``bfloat16`` the adapter stays in float32 and passes run in autocast.
        adapter: ``continue`` trains one LoRA through both stages, ``fresh`` merges the first and starts a second,
            ``none`` trains all weights.
        save: What a variant's folder holds: the merged model, only the adapter, or only the manifest.
        seed: Seed of the alignment stage.
        seeds: Seeds of the attack: mixing and fine-tuning.
        threads: CPU threads of each process; results are bit-equal only for the same number.
        reference: Variant the others are compared with.
    """

    name: str
    model: str
    template: str | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    max_length: int = Field(256, ge=8)
    adapter: Literal["continue", "fresh", "none"] = "continue"
    lora: Lora = Lora()
    save: Literal["merged", "adapter", "none"] = "merged"
    seed: _Seed = 0
    seeds: list[_Seed] = Field([0], min_length=1)
    threads: int = Field(1, ge=1)
    streams: Streams
    alignment: Training = Training(learning_rate=5e-4)
    finetuning: Training = Training()
    evaluation: Evaluation
    variants: list[Variant] = Field(min_length=1)
    reference: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        names = [variant.name for variant in self.variants]
        doubled = {name for name in names if names.count(name) > 1}
        if doubled:
            raise ValueError(f"two variants are called '{min(doubled)}'")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds holds the same seed twice")
        if self.reference is not None and self.reference not in names:
            raise ValueError(f"reference '{self.reference}' is not the name of a variant")
        if self.streams.user.held_out >= self.streams.user.size:
            raise ValueError("streams.user.held_out leaves no row to train on")
        for variant in self.variants:
            check_variant(self, variant)
        return self


def resolved_path(source: str, folder: Path) -> str:
    """A source with ``$MITHRIDATE_DATA`` filled in, relative paths taken from the recipe's folder if found there."""
    filled = source.replace("$MITHRIDATE_DATA", os.environ.get("MITHRIDATE_DATA", "../shared"))
    if ":" in filled.split("/")[0] or Path(filled).is_absolute() or not (folder / filled).exists():
        return filled
    return str(folder / filled)
