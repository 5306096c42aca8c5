"""Defines what a run is: model, rows, attack, a defense per stage, evaluation, variants, axes."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from mithridate.defenses.registry import method
from mithridate.errors import RecipeError, SettingError
from mithridate.experiment.consistency import check_engine, check_quantized, check_variant
from mithridate.experiment.recipe_attacks import check_attacks
from mithridate.experiment.recipe_part import RecipePart, Seed
from mithridate.experiment.recipe_parts import (
    Axes,
    Evaluation,
    LoraSettings,
    TrainingSettings,
)
from mithridate.experiment.recipe_redteam import RedTeam
from mithridate.experiment.recipe_rows import Streams
from mithridate.models.quantized_base import Quantization
from mithridate.settings import Settings, Stage


class Choice(RecipePart):
    """A defense and its settings; a bare name stands for its defaults."""

    # The other keys are the defense's own settings. `build` checks them, since only its class knows their names.
    model_config = ConfigDict(extra="allow")

    method: str

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"method": value} if isinstance(value, str) else value

    def build(self, stage: Stage) -> Settings:
        """Return the defense object.

        Raises:
            UsageError: If the name is unknown or the defense does not act at this stage.
            RecipeError: If a setting is unknown or out of range.
        """
        cls = method(self.method, stage).cls
        try:
            return cls(**(self.model_extra or {}))
        except SettingError as error:
            # By the name that the recipe uses; the error itself names the class.
            raise RecipeError(f"{self.method}: {error.fault}") from error


def _several(value: Any) -> Any:
    if value is None or value == "none":
        return []
    return value if isinstance(value, list) else [value]


Repairs = Annotated[list[Choice], BeforeValidator(_several)]
"""Post-tuning defenses, applied one after the other; a single one may stand without a list, and ``none`` for none."""


class Variant(RecipePart):
    """One row of the table.

    Attributes:
        name: Name, also of its folder.
        alignment: Defense at alignment; ``none`` takes the model as it is.
        finetuning: Defense at fine-tuning; ``none`` skips the user's data.
        posttuning: Defenses after fine-tuning, applied one after the other.
        ratio: p of this variant, if it differs from the recipe's.
        alignment_epochs: Epochs of this variant's alignment, if they differ from the recipe's.
    """

    # Part of a path, so no slash and no blank; and not dots alone, which would lead out of the variants' folder.
    name: str = Field(pattern=r"^[\w.-]*\w[\w.-]*$")
    alignment: Choice = Choice(method="sft")
    finetuning: Choice = Choice(method="sft")
    posttuning: Repairs = Field(default_factory=list)
    ratio: float | None = Field(None, ge=0, le=1)
    alignment_epochs: float | None = Field(None, gt=0)


class Recipe(RecipePart):
    """The whole run.

    Attributes:
        name: Title of the report.
        model: Path, hub id, or ``miniature:base``.
        template: Chat template for a tokenizer without one: ``alpaca`` or a ``.jinja`` file.
        precision: Type in which weights are held while they are trained and measured; with ``bfloat16`` the adapter
            stays in float32 and passes run in autocast. ``auto`` is bfloat16 for a bfloat16 model, else float32.
        quantize: How the base's linear layers are held while an adapter is trained on them and the model is measured
            (QLoRA): ``int8``, ``nf4``, ``nf4_double``, ``fp4``; with bitsandbytes.
        dtype: Type of the weights that are released; ``auto`` is the type in which the model came.
        adapter: ``continue`` trains one LoRA through both stages, ``fresh`` merges the first and starts a second,
            ``none`` trains all weights.
        lora: The adapter.
        finetuning_lora: The adapter of fine-tuning where it is another one, with ``adapter: fresh``.
        save: What a variant's folder holds: the merged model, only the adapter (the whole
            model where there is none), or only the manifest.
        seed: Seed of the alignment stage.
        seeds: Seeds of the attack: mixing and fine-tuning.
        threads: CPU threads of each process; results are bit-equal only for the same number.
        plugins: Python files that register defenses of your own.
        axes: What is varied; without axes only the recipe's own setting is run.
        redteam: What ``mithridate redteam`` searches; a run leaves it alone.
        reference: Variant the others are compared with.
    """

    name: str
    model: str
    template: str | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    # Left out where it is off, so that a recipe's hash from before it was known stays.
    quantize: Quantization = Field("none", exclude_if=lambda form: form == "none")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_length: int = Field(256, ge=8)
    adapter: Literal["continue", "fresh", "none"] = "continue"
    lora: LoraSettings = LoraSettings()
    finetuning_lora: LoraSettings | None = None
    save: Literal["merged", "adapter", "none"] = "merged"
    seed: Seed = 0
    seeds: list[Seed] = Field([0], min_length=1)
    threads: int = Field(1, ge=1)
    streams: Streams
    # That of the papers' scripts, see recipes/paper; fine-tuning has 1e-5 there.
    alignment: TrainingSettings = TrainingSettings(learning_rate=5e-4)
    finetuning: TrainingSettings = TrainingSettings()
    evaluation: Evaluation
    variants: list[Variant] = Field(min_length=1)
    plugins: list[str] = Field(default_factory=list)
    axes: Axes = Axes()
    redteam: RedTeam | None = None
    reference: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        # Names are folders and the keys of every table, so of two alike one would overwrite the other.
        names = [variant.name for variant in self.variants]
        doubled = {name for name in names if names.count(name) > 1}
        if doubled:
            raise ValueError(f"two variants are called '{min(doubled)}'")
        if len(set(self.seeds)) < len(self.seeds):
            # The same stages, counted twice: the interval over seeds would be too narrow.
            raise ValueError("seeds holds the same seed twice")
        if self.reference is not None and self.reference not in names:
            raise ValueError(f"reference '{self.reference}' is not the name of a variant")
        if self.streams.user.held_out >= self.streams.user.size:
            raise ValueError("streams.user.held_out leaves no row to train on")
        if self.finetuning_lora is not None and self.adapter != "fresh":
            raise ValueError(f"finetuning_lora has no effect with adapter '{self.adapter}'; remove it")
        check_attacks(self)
        check_quantized(self)
        check_engine(self)
        for variant in self.variants:
            check_variant(self, variant)
        return self
