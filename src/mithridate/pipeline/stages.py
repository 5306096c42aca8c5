"""The work of each stage: from a model folder and rows to a new folder and a record."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig

from mithridate.errors import DefenseError
from mithridate.pipeline.cost import Meter
from mithridate.pipeline.inputs import stored_rows, stored_texts
from mithridate.pipeline.measuring import evaluate
from mithridate.pipeline.models import (
    ADAPTER,
    MODEL,
    TOKENIZER,
    Where,
    device,
    load,
    load_tokenizer,
    save_merged,
)
from mithridate.pipeline.recipe import Choice
from mithridate.repair.post_tuning import Repair
from mithridate.training.defense import Defense
from mithridate.training.state import newest_finished
from mithridate.training.trainer import DefendedTrainer

Progress = Callable[[int, int], None]
"""Called with the steps done and the steps in all."""

DISPLACEMENT = "displacement.safetensors"
ROW_WEIGHTS = "row_weights.jsonl"


def work(
    stage: str, spec: dict[str, Any], where: Where, folder: Path, progress: Progress, aligned: Where
) -> dict[str, Any]:
    """Do one stage.

    Args:
        stage: ``alignment``, ``finetuning``, ``posttuning`` or ``evaluation``.
        spec: The node's specification.
        where: The model to start from.
        folder: Folder to fill; may hold checkpoints of an interrupted run.
        progress: Told how far the work is.
        aligned: The model after the alignment stage, for what compares with it.

    Returns:
        The record of the stage: cost, proofs that the defense acted, and what it found.
    """
    torch.set_num_threads(spec["threads"])
    if stage == "posttuning":
        return _repair(spec, where, folder, progress, aligned)
    if stage == "evaluation":
        return evaluate(spec, where, folder, progress, aligned)
    return _train(stage, spec, where, folder, progress)


def _train(stage: str, spec: dict[str, Any], where: Where, folder: Path, progress: Progress) -> dict[str, Any]:
    defense = Choice(**spec["defense"]).build(stage)  # type: ignore[arg-type]
    assert isinstance(defense, Defense)
    tokenizer = load_tokenizer(where.base, spec["template"])
    model = load(where, spec["precision"], trainable=True)
    fresh = spec["adapter"] != "none" and where.adapter is None
    trainer = DefendedTrainer(
        model,
        args=_arguments(spec, folder),
        train_dataset=stored_rows(spec["rows"]),
        processing_class=tokenizer,
        peft_config=_lora(spec["lora"]) if fresh else None,
        defense=defense,
        stage=stage,
        stream_batch_size=spec["training"]["stream_batch_size"],
        callbacks=[_Report(progress)],
        **_streams(spec),
    )
    trainer.remove_callback(PrinterCallback)
    checkpoint = newest_finished(folder)
    with Meter() as meter:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.served_tokenizer.chat_template != tokenizer.chat_template:
        trainer.served_tokenizer.save_pretrained(folder / TOKENIZER)
    _save(trainer.model, tokenizer, folder, merge=stage == "alignment" and spec["adapter"] == "fresh")
    if trainer.displacement is not None:
        trainer.displacement.save(folder / DISPLACEMENT)
    return {
        "cost": _cost(defense, meter),
        "activity": _activity(trainer.state.log_history) | trainer.finished,
        "losses": _losses(trainer.state.log_history),
        "dropped_rows": trainer.dropped_rows + sum(trainer.dropped_stream_rows.values()),
        "resumed_from": checkpoint.name if checkpoint else None,
    }


def _streams(spec: dict[str, Any]) -> dict[str, Any]:
    streams = spec["streams"]
    given = {f"{name}_dataset": stored_rows(streams[name]) for name in ("safe", "harmful") if name in streams}
    return given | ({"refusals": stored_texts(streams["refusals"])} if "refusals" in streams else {})


def _arguments(spec: dict[str, Any], folder: Path) -> SFTConfig:
    training = spec["training"]
    return SFTConfig(
        output_dir=str(folder),
        num_train_epochs=training["epochs"],
        learning_rate=training["learning_rate"],
        per_device_train_batch_size=training["batch_size"] // training["accumulation"],
        gradient_accumulation_steps=training["accumulation"],
        weight_decay=training["weight_decay"],
        lr_scheduler_type=training["scheduler"],
        warmup_steps=training["warmup_steps"],
        max_grad_norm=training["max_grad_norm"],
        gradient_checkpointing=training["gradient_checkpointing"],
        save_strategy="steps",
        save_steps=training["save_steps"],
        save_total_limit=2,
        logging_steps=10,
        max_length=spec["max_length"],
        seed=spec["seed"],
        bf16=spec["precision"] == "bfloat16",
        use_cpu=device() == "cpu",
        dataloader_pin_memory=device() != "cpu",
        disable_tqdm=True,
        report_to="none",
    )


def _lora(lora: dict[str, Any]) -> LoraConfig:
    return LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=lora["targets"],
        task_type="CAUSAL_LM",
    )


def _save(model: Any, tokenizer: Any, folder: Path, merge: bool) -> None:
    """An adapter is saved alone, unless it has to be merged."""
    if isinstance(model, PeftModel) and not merge:
        model.save_pretrained(folder / ADAPTER)
    else:
        save_merged(model, tokenizer, folder / MODEL)


def _cost(defense: Defense | Repair, meter: Meter) -> dict[str, Any]:
    return {"seconds": meter.seconds, "passes": defense.passes._asdict(), "peak_bytes": meter.peak_bytes}


_TRL_FIGURES = {
    *("loss", "grad_norm", "learning_rate", "entropy", "num_tokens", "mean_token_accuracy", "epoch", "step"),
    *("train_runtime", "train_loss", "train_samples_per_second", "train_steps_per_second", "total_flos"),
}


def _activity(history: list[dict[str, float]]) -> dict[str, float]:
    """Mean over the run of every figure a defense logged."""
    names = dict.fromkeys(name for entry in history for name in entry if name not in _TRL_FIGURES)
    logged = {name: [entry[name] for entry in history if name in entry] for name in names}
    return {name: sum(values) / len(values) for name, values in logged.items()}


def _losses(history: list[dict[str, float]]) -> list[list[float]]:
    """Step and loss of every entry; of a training too short for one, the last step and the mean over all."""
    logged = [[entry["step"], entry["loss"]] for entry in history if "loss" in entry]
    return logged or [[entry["step"], entry["train_loss"]] for entry in history if "train_loss" in entry]


def _repair(spec: dict[str, Any], where: Where, folder: Path, progress: Progress, aligned: Where) -> dict[str, Any]:
    defense = Choice(**spec["defense"]).build("posttuning")
    assert isinstance(defense, Repair)
    tokenizer = load_tokenizer(where.base, spec["template"])
    model = load(where, spec["precision"])
    streams = {name: stored_rows(stored) for name, stored in spec["streams"].items() if name != "refusals"}
    if spec["held_out"] is not None:
        streams["user"] = stored_rows(spec["held_out"])
    origins = {"base": Where(spec["model"], None), "aligned": aligned}
    references = {name: load(origins[name], spec["precision"]) for name in defense.info.references}
    with Meter() as meter:
        repaired = defense.repair(model, tokenizer, **streams, **references)
    if repaired.changed == 0 and spec["defense"] != {"method": defense.info.name} | defense.info.off:
        raise DefenseError(f"{defense.info.name} changed no weight; raise its strength")
    if repaired.displacement is not None:
        repaired.displacement.save(folder / DISPLACEMENT)
    _save(model, tokenizer, folder, merge=repaired.merged)
    progress(1, 1)
    record = repaired.model_dump(exclude={"merged"})
    record["activity"] |= {"changed": repaired.changed, "distance": repaired.distance}
    return {"cost": _cost(defense, meter)} | record


class _Report(TrainerCallback):  # type: ignore[misc]
    """Tells how many optimizer steps are done."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After each optimizer step."""
        self.progress(state.global_step, state.max_steps)
