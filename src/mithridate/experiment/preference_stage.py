"""Tunes a model on preference pairs with TRL's own DPO trainer; no defense acts in it."""

import math
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer

from mithridate.errors import DataError, Diverged
from mithridate.experiment.jobs import PreferenceJob
from mithridate.experiment.meter import Meter
from mithridate.experiment.row_files import stored_rows
from mithridate.experiment.stage_folder import save_model
from mithridate.experiment.stage_records import LoggedLoss, TrainingRecord
from mithridate.experiment.step_figures import Progress, StepFigures, StepFile, is_told
from mithridate.experiment.training_stage import host_arguments, lora_config
from mithridate.models.loading import Where, load, load_tokenizer
from mithridate.settings import Passes
from mithridate.training.quantized_host import adapter_given, settle_quantized
from mithridate.training.state import newest_finished, seal, verify
from mithridate.training.trainer import LARGEST_DROP

PASSES = Passes(4, 2)
"""Of each pair: both answers through the model and, without gradient, through the reference."""


def prefer(job: PreferenceJob, where: Where, folder: Path, progress: Progress) -> TrainingRecord:
    """Tune a model so that it prefers what the pairs prefer (Rafailov et al., NeurIPS 2023).

    L = −log σ(β·[log π(y₊|x)/π₀(y₊|x) − log π(y₋|x)/π₀(y₋|x)]), π₀ the model that the stage starts from.

    Args:
        job: What to do.
        where: The model to start from, which is also the reference.
        folder: Folder to fill; may hold checkpoints of an interrupted run.
        progress: Called after every optimizer step.

    Raises:
        DataError: If more than a fifth of the pairs has no answer within ``max_length``.
        Diverged: If a loss or a gradient is not finite.
    """
    tokenizer = load_tokenizer(where.base, job.template)
    pairs = stored_rows(job.rows)
    adapted = job.adapter != "none"
    model = load(where, job.precision, trainable=True)
    peft_config = lora_config(job.lora) if adapted else None
    given = adapter_given(model, {"peft_config": peft_config})
    trainer = DPOTrainer(
        model,
        # With an adapter the model without it is the reference.
        ref_model=None if adapted else load(where, job.precision),
        args=DPOConfig(
            # Its losses are in its log alone; and one that is NaN must be seen there.
            **host_arguments(job, folder) | {"logging_steps": 1},
            logging_nan_inf_filter=False,
            beta=job.beta,
        ),
        train_dataset=_as_trl(pairs),
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    settle_quantized(trainer, given)
    # transformers adds it where tqdm is off, and it prints every log entry into our own output.
    trainer.remove_callback(PrinterCallback)
    dropped = len(pairs) - len(trainer.train_dataset)
    if dropped > LARGEST_DROP * len(pairs):
        raise DataError(f"{dropped} of {len(pairs)} pairs have no answer within max_length={job.max_length} tokens")
    steps = StepFile(folder)
    trainer.add_callback(_PreferenceReport(steps, progress))
    checkpoint = newest_finished(folder)
    if checkpoint is not None:
        verify(checkpoint)
    with Meter() as meter:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    save_model(trainer.model, tokenizer, folder, merge=False)
    return TrainingRecord(
        cost=meter.cost(PASSES),
        activity=_activity(trainer.state.log_history),
        losses=[LoggedLoss(one.step, one.loss) for one in steps.read() if one.loss is not None],
        dropped_rows=dropped,
        resumed_from=checkpoint.name if checkpoint else None,
    )


def _as_trl(pairs: Dataset) -> Dataset:
    """Return pairs under TRL's names."""
    return pairs.select_columns(["prompt", "completion", "rejected"]).rename_column("completion", "chosen")


def _activity(history: list[dict[str, Any]]) -> dict[str, int | float]:
    """Return what proves that preferences were learned: means over the last tenth of the steps."""
    logged = [entry for entry in history if "rewards/margins" in entry]
    last = logged[-max(1, len(logged) // 10) :]
    names = ("rewards/margins", "rewards/accuracies")
    return {name: sum(entry[name] for entry in last) / len(last) for name in names} if last else {}


class _PreferenceReport(TrainerCallback):  # type: ignore[misc]
    """Reports progress, tells of the steps, and makes checkpoints whole.

    Args:
        steps: Where steps are told.
        progress: Called after every optimizer step.
    """

    def __init__(self, steps: StepFile, progress: Progress) -> None:
        self._steps, self._progress = steps, progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forget the steps that are taken again."""
        self._steps.forget_after(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Tell of a step, where it is one of those that are told of."""
        if logs is None or "loss" not in logs:
            return
        step, total = state.global_step, state.max_steps
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise Diverged(f"the {name} of optimizer step {step} is {logs[name]}; lower the learning rate or beta")
        if is_told(step, total):
            accuracy = logs.get("mean_token_accuracy")
            self._steps.add(StepFigures(step=step, total=total, loss=logs["loss"], accuracy=accuracy))
        self._progress(step, total)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """List the files of a checkpoint with their hashes; one without the list is unfinished."""
        seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")
