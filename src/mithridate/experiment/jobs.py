"""Defines what each stage is to do: one typed job per kind of stage; the store's key is a hash of its JSON.

Every field is therefore part of a stage's identity, unless it is excluded from the JSON: a new field, even one with a
default, makes every stored stage of that kind run again.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from mithridate.experiment.recipe import Choice
from mithridate.experiment.recipe_attacks import NamedAttack
from mithridate.experiment.recipe_parts import JudgeSettings, LoraSettings, TaskMatching, TrainingSettings
from mithridate.models.quantized_base import Quantization
from mithridate.settings import Stage


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


ServingForm = Literal["merged", "int8", "int4"]
"""``merged``: all weights in one type. ``int8``: LLM.int8(). ``int4``: NF4 in blocks of 64, scales not quantized."""


class StoredRows(_Frozen):
    """A file of rows or texts in the store.

    Attributes:
        path: Where it lies; not part of a job's identity.
        sha256: Hash of its bytes.
    """

    # Excluded from the JSON only; a job that is pickled for a worker keeps it. A moved store stays valid this way.
    path: str = Field(exclude=True)
    sha256: str


class ProviderRows(_Frozen):
    """Rows of the provider that a defense trains or measures on; None where it needs none."""

    safe: StoredRows | None = None
    harmful: StoredRows | None = None
    refusals: StoredRows | None = None


class _Job(_Frozen):
    """What every stage needs.

    Attributes:
        model: Folder or hub id of the recipe's model; the hashes of its files, not its place, are part of the identity.
        precision: Type in which the weights are held.
        quantize: How the base's linear layers are held instead.
        template: Chat template for a tokenizer without one.
        threads: CPU threads; results are bit-equal only for the same number.
    """

    model: str = Field(exclude=True)
    precision: Literal["float32", "bfloat16"]
    # Left out where it is off, so that stages that were stored before it was known are found again.
    quantize: Quantization = Field("none", exclude_if=lambda form: form == "none")
    template: str | None
    threads: int

    @property
    def method(self) -> str:
        """Name of the defense that acts; empty if none does."""
        return ""


class _DefendedJob(_Job):
    """What a stage with a defense needs.

    Attributes:
        provider: The streams that the defense needs besides the rows it acts on.
    """

    defense: Choice
    provider: ProviderRows
    max_length: int

    @property
    def method(self) -> str:
        """Name of the defense."""
        return self.defense.method


class TrainingJob(_DefendedJob):
    """Train the model on rows with a defense.

    Attributes:
        validation: Rows whose loss is told while the model is trained on the others; None where there are none.
    """

    stage: Literal["alignment", "finetuning"]
    rows: StoredRows
    validation: StoredRows | None = None
    training: TrainingSettings
    adapter: Literal["continue", "fresh", "none"]
    lora: LoraSettings
    seed: int


class PreferenceJob(_Job):
    """Tune the model on preference pairs, without a defense.

    Attributes:
        rows: Pairs: rows with the preferred answer as completion, and ``rejected``.
        beta: β of DPO: how strongly the model is held to the one it starts from.
    """

    stage: Literal["finetuning"] = "finetuning"
    rows: StoredRows
    training: TrainingSettings
    beta: float
    adapter: Literal["fresh", "none"]
    lora: LoraSettings
    max_length: int
    seed: int


class RepairJob(_DefendedJob):
    """Change a finished model with a post-tuning defense.

    Attributes:
        held_out: Rows of the upload on which ``strength: auto`` measures its budget.
    """

    stage: Literal["posttuning"] = "posttuning"
    held_out: StoredRows | None


class EvaluationJob(_Job):
    """Measure a model.

    Attributes:
        prompts: Unseen harmful prompts.
        prompt_groups: The group of each, where they have one.
        test: Test rows of the user's task; None to leave the task out.
        look_alikes: Harmless prompts that look harmful.
        look_alike_groups: The group of each, where they have one.
        help: Ordinary prompts with their answers.
        help_check: How an answer to an ordinary prompt is checked.
        system: System message before every harmful prompt.
        prefill: Text with which every answer to a harmful prompt is made to begin.
        harmless: Harmless prompts asked in the same way; an answer that they get as well is no harm.
        further_judges: Judges besides the first, whose verdicts are recorded beside its own.
        asked_as: The attack in whose form harmful prompts are asked and answers read; None to ask plainly.
        release_attacks: Attacks on the finished model.
        attacker_benign: Harmless rows that those attacks use.
        attacker_harmful: Harmful rows that those attacks use.
        vllm: Version of the vLLM that generates the answers; None where transformers does.
    """

    stage: Literal["evaluation"] = "evaluation"
    prompts: StoredRows
    prompt_groups: StoredRows | None
    test: StoredRows | None
    look_alikes: StoredRows | None
    look_alike_groups: StoredRows | None
    help: StoredRows | None
    help_check: Literal["coherent", "exact"] | None
    task: TaskMatching
    judge: JudgeSettings
    system: str | None = None
    prefill: str | None = None
    harmless: StoredRows | None = None
    further_judges: tuple[JudgeSettings, ...] = ()
    max_new_tokens: int
    batch_size: int
    asked_as: NamedAttack | None = None
    release_attacks: list[NamedAttack] = []
    attacker_benign: StoredRows | None = None
    attacker_harmful: StoredRows | None = None
    # Left out where it is off, so that stages that were stored before it was known are found again.
    vllm: str | None = Field(None, exclude_if=lambda version: version is None)


class CandidateJob(_Job):
    """Write a model as it would be released: merged, in the type and the form in which it is served.

    What is judged is then the very bytes that leave.

    Attributes:
        dtype: Type of the weights, or of those that a quantized form leaves as they are.
        form: Whether the weights are quantized.
    """

    stage: Literal["candidate"] = "candidate"
    dtype: Literal["float32", "bfloat16"]
    form: ServingForm = "merged"


Job = TrainingJob | PreferenceJob | RepairJob | CandidateJob | EvaluationJob
StageName = Stage | Literal["candidate", "evaluation"]


class StageNode(BaseModel):
    """One stage of work in the plan.

    Attributes:
        key: Hash of everything that decides its result.
        parent: Key of the stage whose model it takes; None for the model of the recipe.
        job: What to do.
        label: What the stage is called on the screen; if variants share a stage, the name of the first.
    """

    model_config = ConfigDict(frozen=True)

    key: str
    parent: str | None
    job: Job
    label: str

    @property
    def stage(self) -> StageName:
        """Which kind of stage it is."""
        return self.job.stage
