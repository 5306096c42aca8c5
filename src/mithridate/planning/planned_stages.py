"""Turns each stage of a run into what it costs."""

from typing import Any

import torch

from mithridate.errors import RecipeError
from mithridate.experiment.jobs import EvaluationJob, RepairJob, StageNode, TrainingJob
from mithridate.experiment.plan import Plan
from mithridate.experiment.recipe import Recipe
from mithridate.experiment.recipe_parts import LoraSettings
from mithridate.models.loading import stored_dtype
from mithridate.planning.device_memory import form_memory
from mithridate.planning.device_speed import DeviceSpeed
from mithridate.planning.measured_speed import measured_speed
from mithridate.planning.pass_work import PassWork, pass_work
from mithridate.planning.plan_records import NOTHING, FormMemory, PlannedStage, Span
from mithridate.planning.planned_evaluation import evaluation_work
from mithridate.planning.planned_repair import repair_work
from mithridate.planning.planned_training import Work, training_work
from mithridate.planning.row_tokens import RowLengths, padded
from mithridate.repair.post_tuning import Repair
from mithridate.training.defense import Defense


class PlannedModel:
    """The model of a recipe, whose passes are counted once for each adapter.

    Args:
        config: Its settings.
        recipe: The recipe.
        place: Where the settings are.

    Attributes:
        config: Its settings.
        dtype: Type of its weights while it is trained and measured.
        quantize: How the base's linear layers are held instead.
    """

    def __init__(self, config: Any, recipe: Recipe, place: str) -> None:
        self.config = config
        stored = stored_dtype(place) if recipe.precision == "auto" else getattr(torch, recipe.precision)
        self.dtype: torch.dtype = torch.bfloat16 if stored is torch.bfloat16 else torch.float32
        self.own = None if recipe.adapter == "none" else recipe.finetuning_lora or recipe.lora
        self.quantize = recipe.quantize
        self._known: dict[str, PassWork] = {}

    @property
    def is_half(self) -> bool:
        """Whether it is in half precision."""
        return self.dtype is torch.bfloat16

    def work(self, whole: bool = False, lora: LoraSettings | None = None) -> PassWork:
        """Return the work of its passes, by default as the recipe trains it.

        Args:
            whole: All weights are trained.
            lora: The adapter, where it is another one than that of fine-tuning.
        """
        chosen = None if whole else lora or self.own
        key = "" if chosen is None else chosen.model_dump_json()
        if key not in self._known:
            self._known[key] = pass_work(self.config, self.dtype, chosen, "none" if chosen is None else self.quantize)
        return self._known[key]


class StagePlanner:
    """Plans stages one by one.

    Args:
        model: The model.
        lengths: Lengths of the rows.
        devices: Devices that share a training stage.
    """

    def __init__(self, model: PlannedModel, lengths: RowLengths, devices: int) -> None:
        self._model, self._lengths, self._devices = model, lengths, devices

    def stage(self, node: StageNode, variants: list[str], speed: DeviceSpeed | None) -> PlannedStage:
        """Return what a stage costs.

        Args:
            node: The stage.
            variants: The variants that use it.
            speed: How fast it runs; None to leave time out.
        """
        job, steps, passes, tries = node.job, 0, {}, NOTHING
        memory: list[FormMemory] = []
        if isinstance(job, TrainingJob):
            defense = job.defense.build(job.stage)
            assert isinstance(defense, Defense)  # the registry gives nothing else at this stage; for type checkers
            passes = defense.passes._asdict()
            steps, high = training_work(job, defense, self._lengths, self._trained_as(job))
            low, memory = high, self._memory(job, defense)
        elif isinstance(job, RepairJob):
            repair = job.defense.build("posttuning")
            assert isinstance(repair, Repair)  # likewise
            passes = repair.passes._asdict()
            low, high, tries, steps = repair_work(job, repair, self._lengths, self._model.work())
        else:
            assert isinstance(job, EvaluationJob)  # recipes have no other stage
            low = high = evaluation_work(job, self._lengths, self._model.work())
        return PlannedStage(
            key=node.key,
            label=node.label,
            stage=node.stage,
            method=job.method,
            variants=variants,
            steps=steps,
            passes=passes,
            tries=tries,
            tokens=Span(low.tokens, high.tokens),
            generated=Span(low.generated, high.generated),
            flops=Span(low.flops, high.flops),
            full_precision=high.precise / high.flops if high.flops and self._model.is_half else 0.0,
            seconds=None if speed is None else self._seconds(node, low, high, speed),
            memory=memory,
        )

    def measured(self, stages: Plan) -> DeviceSpeed:
        """Return the speed of this machine on a batch of the recipe's first training, or of 16 rows of 64 tokens."""
        rows, tokens = 16, 64
        for node in stages.nodes.values():
            if isinstance(node.job, TrainingJob):
                settings = node.job.training
                rows = settings.batch_size // settings.accumulation
                tokens = max(1, round(padded(self._lengths.of(node.job.rows).whole, rows).mean))
                break
        model = self._model
        return measured_speed(model.config, model.dtype, model.own, model.work(), rows, tokens)

    def _with_adapter(self, job: TrainingJob) -> PassWork | None:
        """Return the work with the recipe's adapter; None where it trains all weights and the adapter fits no layer."""
        try:
            return self._model.work(lora=job.lora)
        except RecipeError:
            if job.adapter != "none":
                raise
            return None

    def _trained_as(self, job: TrainingJob) -> PassWork:
        return self._model.work(whole=True) if job.adapter == "none" else self._model.work(lora=job.lora)

    def _seconds(self, node: StageNode, low: Work, high: Work, speed: DeviceSpeed) -> Span:
        shared = self._devices if isinstance(node.job, TrainingJob) else 1
        return Span(*(_time(work, speed, self._model.is_half) / shared for work in (low, high)))

    def _memory(self, job: TrainingJob, defense: Defense) -> list[FormMemory]:
        """Return the memory of a device: for an adapter and for all weights, alone and spread over the devices."""
        settings, provider = job.training, job.provider
        streams = [job.rows, *(one for one in (provider.safe, provider.harmful) if one is not None)]
        longest = max(max(self._lengths.of(stored).whole) for stored in streams)
        rows = settings.batch_size // settings.accumulation
        found = []
        forms = {"LoRA": self._with_adapter(job), "all weights": self._model.work(whole=True)}
        quantize, spreads = self._model.quantize, sorted({1, self._devices})
        if quantize != "none":
            # Nothing else is trained on such a base, and FSDP cannot split it.
            forms, spreads = {f"LoRA on {quantize}": forms["LoRA"]}, [1]
        for devices in spreads:
            # Each device has its own share of the rows.
            tokens = longest * max(1, rows // devices)
            spread = "" if devices == 1 else f", FSDP over {devices}"
            for form, work in ((name, known) for name, known in forms.items() if known is not None):
                half, checkpointing = self._model.is_half, settings.gradient_checkpointing
                found.append(form_memory(form + spread, defense, work, tokens, checkpointing, half, devices))
        return found


def _time(work: Work, speed: DeviceSpeed, is_half: bool) -> float:
    precise = work.precise / work.flops if work.flops else 0.0
    reading = work.read / speed.bandwidth if speed.bandwidth else 0.0
    return speed.seconds(work.flops, precise if is_half else 0.0, is_half) + reading
