"""Does the two training stages: trains a model on rows with a defense and records how it went."""

from pathlib import Path
from typing import Any

from peft import LoraConfig
from transformers import PrinterCallback
from trl import SFTConfig

from mithridate.experiment.jobs import PreferenceJob, ProviderRows, TrainingJob
from mithridate.experiment.launch import micro_batches
from mithridate.experiment.meter import Meter
from mithridate.experiment.recipe_parts import LoraSettings
from mithridate.experiment.row_files import stored_rows, stored_texts
from mithridate.experiment.stage_folder import DISPLACEMENT, TOKENIZER, save_model
from mithridate.experiment.stage_records import LoggedLoss, TrainingRecord
from mithridate.experiment.step_figures import Progress, StepReport
from mithridate.models.loading import Where, device, load, load_tokenizer, load_whole
from mithridate.models.merge_loss import merge_loss
from mithridate.models.tokenization import tokenize
from mithridate.training.defense import Defense
from mithridate.training.logged_figures import logged_means
from mithridate.training.processes import running_processes
from mithridate.training.state import newest_finished
from mithridate.training.trainer import DefendedTrainer


def train(job: TrainingJob, where: Where, folder: Path, progress: Progress) -> TrainingRecord:
    """Train a model with a defense; under several processes, each calls it, and the first one writes.

    Args:
        job: What to do.
        where: The model to start from.
        folder: Folder to fill; may hold checkpoints of an interrupted run.
        progress: Called after every optimizer step.

    Raises:
        DefenseError: If the defense cannot act.
    """
    processes = running_processes(device())
    defense = job.defense.build(job.stage)
    assert isinstance(defense, Defense)
    tokenizer = load_tokenizer(where.base, job.template)
    model = load(where, job.precision, trainable=True)
    # With "continue", fine-tuning finds the adapter of alignment, which `load` has made trainable. With "fresh",
    # alignment was saved merged, see below, so there is none.
    fresh = job.adapter != "none" and where.adapter is None
    trainer = DefendedTrainer(
        model,
        args=SFTConfig(
            **host_arguments(job, folder, processes.count) | {"padding_free": job.training.padding_free},
        ),
        train_dataset=stored_rows(job.rows),
        processing_class=tokenizer,
        peft_config=lora_config(job.lora) if fresh else None,
        defense=defense,
        stage=job.stage,
        stream_batch_size=job.training.stream_batch_size,
        **_streams(job.provider),
    )
    # transformers adds it where tqdm is off, and it prints every log entry into our own output.
    trainer.remove_callback(PrinterCallback)
    validation = None if job.validation is None else tokenize(stored_rows(job.validation), tokenizer, job.max_length)
    report = StepReport(trainer, folder, progress, validation)
    if processes.rank == 0:
        trainer.add_callback(report)
    checkpoint = newest_finished(folder)
    merging = None
    with Meter() as meter:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    # A machine must hold the largest.
    meter.peak_bytes = int(processes.largest(meter.peak_bytes))
    if processes.rank == 0:
        report.conclude()
        merging = _save(job, where, trainer, tokenizer, folder)
    return TrainingRecord(
        cost=meter.cost(defense.passes),
        activity=logged_means(trainer.state.log_history) | trainer.finished,
        losses=_losses(trainer.state.log_history),
        dropped_rows=trainer.dropped_rows + sum(trainer.dropped_stream_rows.values()),
        resumed_from=checkpoint.name if checkpoint else None,
        processes=processes.count,
        merging=merging,
    )


def _save(
    job: TrainingJob, where: Where, trainer: DefendedTrainer, tokenizer: Any, folder: Path
) -> dict[str, float] | None:
    """Save what the training leaves, and return what merging lost where the base is quantized."""
    merge, loss = job.stage == "alignment" and job.adapter == "fresh", None
    # Only a defense with a safety prompt serves another template than it trains with; others keep the base's tokenizer.
    if trainer.served_tokenizer.chat_template != tokenizer.chat_template:
        trainer.served_tokenizer.save_pretrained(folder / TOKENIZER)
    # With the tokenizer trained with: a later stage must not train on the served template.
    if merge and where.quantize != "none":
        whole = load_whole(trainer.model, where, job.precision)
        loss = merge_loss(whole, where.quantize)._asdict()
        save_model(whole, tokenizer, folder, merge=True)
    else:
        save_model(trainer.model, tokenizer, folder, merge=merge)
    if trainer.displacement is not None:
        trainer.displacement.save(folder / DISPLACEMENT)
    return loss


def _streams(provider: ProviderRows) -> dict[str, Any]:
    """Return the provider's rows as the trainer's arguments."""
    given: dict[str, Any] = {}
    if provider.safe is not None:
        given["safe_dataset"] = stored_rows(provider.safe)
    if provider.harmful is not None:
        given["harmful_dataset"] = stored_rows(provider.harmful)
    if provider.refusals is not None:
        given["refusals"] = stored_texts(provider.refusals)
    return given


def host_arguments(job: TrainingJob | PreferenceJob, folder: Path, processes: int = 1) -> dict[str, Any]:
    """Return what a training asks of TRL's trainers, whichever of them it is."""
    training, own = job.training, micro_batches(job.training, processes)
    return {
        "output_dir": str(folder),
        "num_train_epochs": training.epochs,
        "learning_rate": training.learning_rate,
        # The recipe counts rows per optimizer step, transformers rows per micro-batch of one process.
        "per_device_train_batch_size": own.rows,
        "gradient_accumulation_steps": own.number,
        "weight_decay": training.weight_decay,
        "lr_scheduler_type": training.scheduler,
        "warmup_steps": training.warmup_steps,
        "max_grad_norm": training.max_grad_norm,
        # Always passed: TRL's default is on.
        "gradient_checkpointing": training.gradient_checkpointing,
        "save_strategy": "steps",
        "save_steps": training.save_steps,
        "save_total_limit": 2,  # the newest, and one to go back to if that is found damaged
        "logging_steps": 10,  # enough for a curve; transformers logs the mean loss since the last entry
        "max_length": job.max_length,
        "seed": job.seed,
        # TRL's default is on, which would put a float32 recipe under autocast.
        "bf16": job.precision == "bfloat16",
        # Without it, transformers would take Apple's GPU for a model that `load` has put on the CPU.
        "use_cpu": device() == "cpu",
        "dataloader_pin_memory": device() != "cpu",
        "disable_tqdm": True,
        "report_to": "none",  # whatever tracker is installed, nothing about a run leaves the machine unasked
    }


def lora_config(lora: LoraSettings) -> LoraConfig:
    """Return the adapter's settings as PEFT has them."""
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        task_type="CAUSAL_LM",
    )


def _losses(history: list[dict[str, float]]) -> list[LoggedLoss]:
    """Return step and loss of every log entry, or, of a training too short for one, last step and mean loss."""
    logged = [LoggedLoss(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    return logged or [LoggedLoss(entry["step"], entry["train_loss"]) for entry in history if "train_loss" in entry]
