"""Training inside a repair: weights are trained, and nothing else of the model or of the process is changed."""

import copy
import math
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import PrinterCallback
from trl import SFTConfig

from mithridate.errors import DefenseError, Diverged, UsageError
from mithridate.models.modes import is_half
from mithridate.models.undo import about_to_overwrite
from mithridate.repair.repair_inputs import RepairInputs, UntokenizedRow
from mithridate.repair.unchanged import unchanged
from mithridate.training.defense import Defense
from mithridate.training.host import refuse_adapted_head
from mithridate.training.logged_figures import logged_means
from mithridate.training.processes import launched_processes
from mithridate.training.trainable_weights import Weights
from mithridate.training.trainer import DefendedTrainer

FEWEST_STEPS = 10
"""Optimizer steps taken however few rows there are; a single row is trained on as often as this."""


class Course(NamedTuple):
    """How long to train.

    Attributes:
        epochs: Passes over the rows.
        step_rows: Rows of an optimizer step.
        seed: Seed of the order of rows and of dropout.
    """

    epochs: float
    step_rows: int
    seed: int

    def steps(self, rows: int) -> int:
        """Return the optimizer steps over so many rows."""
        return max(FEWEST_STEPS, math.ceil(self.epochs * math.ceil(rows / self.step_rows)))

    def trained(self, rows: int, steps: int) -> int:
        """Return the rows that so many steps see, repetitions included."""
        epochs, rest = divmod(steps, math.ceil(rows / self.step_rows))
        return epochs * rows + min(rest * self.step_rows, rows)


class Realignment:
    """Trains weights of a finished model in place, by an alignment-stage defense, as often as asked.

    Under a launcher every process repairs the same model, shares each step's rows, and ends with the same weights.

    Args:
        inputs: The model, and the rows that the defense needs besides the safe ones.
        weights: What to train; everything else is frozen.
        defense: The defense.
        course: How long to train.

    Attributes:
        weights: What is trained.
        rows: Safe rows trained on so far, repetitions included.

    Raises:
        DefenseError: If the weights are half precision, or rows that the defense needs are not given.
        UsageError: If a step's rows cannot be shared by the processes that a launcher started, or the output head has
            an adapter.
    """

    def __init__(self, inputs: RepairInputs, weights: Weights, defense: Defense, course: Course) -> None:
        _refuse_half(weights)
        refuse_adapted_head(inputs.model)
        self._step_rows = _own_rows(course.step_rows)
        self.weights, self.rows = weights, 0
        self._inputs, self._defense, self._course = inputs, defense, course
        self._harmful = inputs.untokenized("harmful") if "harmful" in defense.streams else None

    def run(self, rate: float, rows: Sequence[UntokenizedRow]) -> dict[str, float]:
        """Train from the present weights, with AdamW at a constant rate.

        Args:
            rate: Learning rate.
            rows: Safe rows.

        Returns:
            What was trained on, and the figures of the defense.

        Raises:
            Diverged: If it leaves weights or gradients that are not finite.
            DefenseError: If the defense cannot act.
        """
        model, inputs = self._inputs.model, self._inputs
        about_to_overwrite(self.weights.parameters)
        with tempfile.TemporaryDirectory(prefix="realign-") as folder, unchanged(model):
            model.requires_grad_(False)
            for parameter in self.weights.parameters:
                parameter.requires_grad_(True)
            trainer = DefendedTrainer(
                model,
                args=self._arguments(rate, len(rows), folder),
                train_dataset=list(rows),
                processing_class=copy.deepcopy(inputs.tokenizer),
                defense=self._defense,
                stage="alignment",
                harmful_dataset=self._harmful,
                refusals=inputs.refusals if "refusals" in self._defense.streams else (),
            )
            # It prints every entry of the log.
            trainer.remove_callback(PrinterCallback)
            try:
                trainer.train()
            finally:
                # A training that diverges costs what it has seen until then.
                trained = self._course.trained(len(rows), trainer.state.global_step)
                self.rows += trained
        _require_finite(self.weights)
        counts = {"learning_rate": rate, "safe_rows": len(rows), "steps": trainer.state.global_step}
        return {**counts, "rows_trained": trained, **logged_means(trainer.state.log_history), **trainer.finished}

    def _arguments(self, rate: float, rows: int, folder: str) -> SFTConfig:
        parameters = list(self._inputs.model.parameters())
        on_cpu = parameters[0].device.type == "cpu"
        return SFTConfig(
            output_dir=folder,
            max_steps=self._course.steps(rows),
            learning_rate=rate,
            lr_scheduler_type="constant",
            per_device_train_batch_size=self._step_rows,
            max_length=self._inputs.max_length,
            seed=self._course.seed,
            bf16=any(parameter.dtype == torch.bfloat16 for parameter in parameters),
            gradient_checkpointing=False,
            use_cpu=on_cpu,
            dataloader_pin_memory=not on_cpu,
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            report_to="none",
        )


def _own_rows(step_rows: int) -> int:
    """Return this process's share of a step's rows."""
    processes = launched_processes()
    if step_rows % processes:
        raise UsageError(
            f"step_rows={step_rows} cannot be shared by {processes} processes; give a multiple of {processes}"
        )
    return step_rows // processes


def _refuse_half(weights: Weights) -> None:
    # AdamW's steps are far below the spacing of bfloat16 numbers.
    half = [name for name, weight in zip(weights.names, weights.parameters, strict=True) if is_half(weight)]
    if half:
        raise DefenseError(
            f"'{half[0]}' is half precision, in which steps of training round away; load the model and its adapter in "
            "float32 (--dtype float32 on the command line)"
        )


def _require_finite(weights: Weights) -> None:
    for name, weight in zip(weights.names, weights.parameters, strict=True):
        if not bool(weight.isfinite().all()):
            raise Diverged(f"the training left NaN or Inf in '{name}'; lower the learning rate")
