"""The work of the two training stages: from a model and rows to weights and a record."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from peft import LoraConfig
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig

from mithridate.experiment.inputs import stored_rows, stored_texts
from mithridate.experiment.jobs import ProviderRows, TrainingJob
from mithridate.experiment.meter import Meter
from mithridate.experiment.recipe_parts import LoraSettings
from mithridate.experiment.stage_folder import DISPLACEMENT, TOKENIZER, save_model
from mithridate.experiment.stage_records import LoggedLoss, TrainingRecord
from mithridate.models.loading import Where, device, load, load_tokenizer
from mithridate.training.defense import Defense
from mithridate.training.state import newest_finished
from mithridate.training.trainer import DefendedTrainer

Progress = Callable[[int, int], None]
"""Called with the steps done and the steps in all."""


def train(job: TrainingJob, where: Where, folder: Path, progress: Progress) -> TrainingRecord:
    """Train a model with a defense.

    Args:
        job: What is to be done.
        where: The model to start from.
        folder: Folder to fill; may hold checkpoints of an interrupted run.
        progress: Told how far the work is.

    Raises:
        DefenseError: If the defense cannot act.
    """
    defense = job.defense.build(job.stage)
    assert isinstance(defense, Defense)
    tokenizer = load_tokenizer(where.base, job.template)
    model = load(where, job.precision, trainable=True)
    fresh = job.adapter != "none" and where.adapter is None
    trainer = DefendedTrainer(
        model,
        args=_arguments(job, folder),
        train_dataset=stored_rows(job.rows),
        processing_class=tokenizer,
        peft_config=_lora(job.lora) if fresh else None,
        defense=defense,
        stage=job.stage,
        stream_batch_size=job.training.stream_batch_size,
        callbacks=[_Report(progress)],
        **_streams(job.provider),
    )
    trainer.remove_callback(PrinterCallback)
    checkpoint = newest_finished(folder)
    with Meter() as meter:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.served_tokenizer.chat_template != tokenizer.chat_template:
        trainer.served_tokenizer.save_pretrained(folder / TOKENIZER)
    save_model(trainer.model, tokenizer, folder, merge=job.stage == "alignment" and job.adapter == "fresh")
    if trainer.displacement is not None:
        trainer.displacement.save(folder / DISPLACEMENT)
    return TrainingRecord(
        cost=meter.cost(defense.passes),
        activity=_activity(trainer.state.log_history) | trainer.finished,
        losses=_losses(trainer.state.log_history),
        dropped_rows=trainer.dropped_rows + sum(trainer.dropped_stream_rows.values()),
        resumed_from=checkpoint.name if checkpoint else None,
    )


def _streams(provider: ProviderRows) -> dict[str, Any]:
    """The provider's rows as the trainer's arguments."""
    given: dict[str, Any] = {}
    if provider.safe is not None:
        given["safe_dataset"] = stored_rows(provider.safe)
    if provider.harmful is not None:
        given["harmful_dataset"] = stored_rows(provider.harmful)
    if provider.refusals is not None:
        given["refusals"] = stored_texts(provider.refusals)
    return given


def _arguments(job: TrainingJob, folder: Path) -> SFTConfig:
    training = job.training
    return SFTConfig(
        output_dir=str(folder),
        num_train_epochs=training.epochs,
        learning_rate=training.learning_rate,
        per_device_train_batch_size=training.batch_size // training.accumulation,
        gradient_accumulation_steps=training.accumulation,
        weight_decay=training.weight_decay,
        lr_scheduler_type=training.scheduler,
        warmup_steps=training.warmup_steps,
        max_grad_norm=training.max_grad_norm,
        gradient_checkpointing=training.gradient_checkpointing,
        save_strategy="steps",
        save_steps=training.save_steps,
        save_total_limit=2,
        logging_steps=10,
        max_length=job.max_length,
        seed=job.seed,
        bf16=job.precision == "bfloat16",
        use_cpu=device() == "cpu",
        dataloader_pin_memory=device() != "cpu",
        disable_tqdm=True,
        report_to="none",
    )


def _lora(lora: LoraSettings) -> LoraConfig:
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        task_type="CAUSAL_LM",
    )


_TRL_FIGURES = {
    *("loss", "grad_norm", "learning_rate", "entropy", "num_tokens", "mean_token_accuracy", "epoch", "step"),
    *("train_runtime", "train_loss", "train_samples_per_second", "train_steps_per_second", "total_flos"),
}


def _activity(history: list[dict[str, float]]) -> dict[str, float]:
    """Mean over the run of every figure a defense logged."""
    names = dict.fromkeys(name for entry in history for name in entry if name not in _TRL_FIGURES)
    logged = {name: [entry[name] for entry in history if name in entry] for name in names}
    return {name: sum(values) / len(values) for name, values in logged.items()}


def _losses(history: list[dict[str, float]]) -> list[LoggedLoss]:
    """Step and loss of every entry; of a training too short for one, the last step and the mean over all."""
    logged = [LoggedLoss(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    return logged or [LoggedLoss(entry["step"], entry["train_loss"]) for entry in history if "train_loss" in entry]


class _Report(TrainerCallback):  # type: ignore[misc]
    """Tells how many optimizer steps are done."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After each optimizer step."""
        self.progress(state.global_step, state.max_steps)
