"""Defines what a recipe says about training, evaluation and axes."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from mithridate.evaluation.judges.guard_forms import form_of
from mithridate.evaluation.vllm.environment import Engine
from mithridate.experiment.consistency import SCHEDULERS
from mithridate.experiment.recipe_attacks import NamedAttack
from mithridate.experiment.recipe_part import RecipePart
from mithridate.experiment.recipe_rows import PromptSources, Sources, UploadChoice
from mithridate.nearest import did_you_mean


class LoraSettings(RecipePart):
    """The adapter (PEFT's ``LoraConfig``)."""

    # The papers' adapter for 7B models, see recipes/paper; an alpha below the rank scales it down, to 1/8 here.
    rank: int = Field(32, ge=1)
    alpha: float = Field(4, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: list[str] | str = Field(default_factory=lambda: ["q_proj", "k_proj", "v_proj"])


class TrainingSettings(RecipePart):
    """How a training stage runs (TRL's ``SFTConfig``).

    Attributes:
        batch_size: Rows per optimizer step.
        accumulation: Micro-batches a step is split into.
        stream_batch_size: Rows of each other stream per step; ``batch_size`` by default.
        padding_free: Whether rows go through the model end to end, without padding; preference pairs never do.
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
    # Left out where it is off, so that stages that were stored before it was known are found again.
    padding_free: bool = Field(False, exclude_if=lambda asked: not asked)
    save_steps: int = Field(100, ge=1)

    @model_validator(mode="after")
    def _divides(self) -> "TrainingSettings":
        # The trainer takes rows per micro-batch; rounding would change the batch of every step without a word.
        if self.batch_size % self.accumulation:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of accumulation {self.accumulation}")
        # transformers ignores the warm-up of this scheduler silently.
        if self.scheduler == "constant" and self.warmup_steps:
            raise ValueError("the scheduler 'constant' has no warm-up; set scheduler to constant_with_warmup")
        return self

    @field_validator("scheduler")
    @classmethod
    def _known(cls, value: str) -> str:
        # SFTConfig would refuse it too, but only when the stage starts.
        if value not in SCHEDULERS:
            raise ValueError(f"is not a scheduler; {did_you_mean(value, SCHEDULERS)}")
        return value


class TaskMatching(RecipePart):
    """How answers to the user's task are generated and matched.

    Without the rows, which a job holds by their hash.

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
        kind: ``refusal`` (rules), ``classifier`` (a Hugging Face model), ``guard`` (a generative guard model, here or
            behind an endpoint) or ``chat`` (an OpenAI-compatible endpoint).
        model: Model of the classifier, guard or endpoint.
        form: The guard's family, if its model's name does not tell.
        url: Base URL of the endpoint; a guard without one runs here.
        api_key_env: Environment variable that holds its key.
        threshold: Score above which the classifier flags an answer.
        refusals: Phrases that the rules take as refusals besides their own, here and wherever refusals are counted;
            ``...`` stands for any words of the same sentence, at the start as well.
    """

    kind: Literal["refusal", "classifier", "guard", "chat"] = "refusal"
    model: str | None = None
    form: str | None = None
    url: str | None = None
    api_key_env: str | None = None
    threshold: float = Field(0.5, gt=0, lt=1)
    refusals: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _complete(self) -> "JudgeSettings":
        needed = {"refusal": (), "classifier": ("model",), "guard": ("model",), "chat": ("model", "url")}[self.kind]
        others = {
            "refusal": ("refusals",),
            "classifier": ("threshold",),
            "guard": ("form", "url", "api_key_env"),
            "chat": ("api_key_env",),
        }[self.kind]
        used = (*needed, *others)
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"a judge of kind '{self.kind}' needs `{name}`")
        # Compared with the default, not with what was set: a recipe that was written out names every key.
        for name, field in type(self).model_fields.items():
            if name not in ("kind", *used) and getattr(self, name) != field.get_default(call_default_factory=True):
                raise ValueError(f"a judge of kind '{self.kind}' does not read `{name}`; remove it")
        if self.kind == "guard":
            # Raises if the family is unknown, before a model is loaded for it.
            form_of(self.model or "", self.form)
            if self.api_key_env is not None and self.url is None:
                raise ValueError("`api_key_env` is for a guard behind an endpoint; give `url` too, or remove it")
        return self


class Evaluation(RecipePart):
    """What is measured.

    Attributes:
        harmful: Unseen harmful prompts, from one source or several, each of which may be a group of its own.
        task: The user's task.
        look_alikes: Harmless prompts that look harmful, for over-refusal, likewise.
        help: Ordinary prompts, for helpfulness; without them no variant is known to be of use.
        judge: The judge.
        max_new_tokens: Longest answer to a prompt.
        batch_size: Prompts per generation batch.
        release_attacks: Attacks on each finished model, under each of which the harmful score is measured again.
        engine: What generates the answers: ``transformers``, or ``vllm`` in an environment of its own.
    """

    harmful: PromptSources
    task: Task
    look_alikes: PromptSources | None = None
    help: Help | None = None
    judge: JudgeSettings = JudgeSettings()
    max_new_tokens: int = Field(64, ge=1)
    batch_size: int = Field(64, ge=1)
    release_attacks: list[NamedAttack] = Field(default_factory=list)
    # Left out where it is the default, so that a recipe's hash from before it was known stays.
    engine: Engine = Field("transformers", exclude_if=lambda name: name == "transformers")


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
        attack: Attacks that make the upload, in the order of tables; their harmful rows are ``streams.user.harmful``.
    """

    ratio: list[float] = Field(default_factory=list)
    learning_rate: list[float] = Field(default_factory=list)
    epochs: list[float] = Field(default_factory=list)
    size: list[int] = Field(default_factory=list)
    alignment_learning_rate: list[float] = Field(default_factory=list)
    alignment_epochs: list[float] = Field(default_factory=list)
    attack: list[UploadChoice] = Field(default_factory=list)

    @model_validator(mode="after")
    def _once(self) -> "Axes":
        for axis, values in self.values().items():
            # Of attacks, `check_attacks` says how to tell two with one name apart.
            if axis != "attack" and len(set(values)) < len(values):
                raise ValueError(f"{axis} holds the same value twice")
        # Values are not checked against their bounds here; each becomes a recipe, which is.
        return self

    def values(self) -> dict[str, list[float] | list[str]]:
        """Return the axes that are varied, with their values: numbers in rising order, attacks by their labels."""
        # Rising, because tables and curves follow this order.
        named: dict[str, list[float] | list[str]] = {
            axis: sorted(getattr(self, axis)) for axis in type(self).model_fields if axis != "attack"
        }
        named["attack"] = [one.label for one in self.attack]
        return {axis: values for axis, values in named.items() if values}
