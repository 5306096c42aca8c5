"""What a training tells of single optimizer steps, in a file of its stage, which others may read while it runs."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from transformers import TrainerCallback

from mithridate.evaluation.token_figures import TokenFigures, token_figures
from mithridate.files import write_whole
from mithridate.models.tokenization import TokenizedRow

Progress = Callable[[int, int], None]
"""Called with the steps done and the total of steps."""

STEPS = "steps.jsonl"
"""File of the figures in a training stage's folder, one step a line."""
MOST_STEPS = 200
"""Steps of a training that are told of, about; a longer training tells of every second step, every third, …"""
VALIDATIONS = 20
"""Times that the rows of a validation file are scored while a training runs, at most."""
SAMPLE = 100
"""Rows that are scored each time; the whole file is scored once, at the end."""


class StepFigures(BaseModel):
    """What is told of one optimizer step; all figures are means per completion token.

    Attributes:
        step: Its number, from 1.
        total: Steps of the training.
        loss: Loss on the step's own rows, in nats; None where it is not finite or the step had rows of the provider's.
        accuracy: Share of their tokens that were the likeliest, likewise.
        valid_loss: Loss after the step on a sample of the validation file; None where it was not scored.
        valid_accuracy: Share of its tokens that were the likeliest.
        full_valid_loss: Loss of the tuned model on the whole validation file; at the last step alone.
        full_valid_accuracy: Share of its tokens that were the likeliest.
    """

    model_config = ConfigDict(extra="forbid")

    step: int
    total: int
    loss: float | None = None
    accuracy: float | None = None
    valid_loss: float | None = None
    valid_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_accuracy: float | None = None


def read_steps(folder: Path) -> list[StepFigures]:
    """Return what a training has told so far, in the order of its steps; nothing where it has not begun."""
    path = folder / STEPS
    told = path.read_bytes() if path.is_file() else b""
    # The last line may be half written.
    return [StepFigures.model_validate_json(line) for line in told[: told.rfind(b"\n") + 1].splitlines()]


class StepFile:
    """The file in which a training tells of its steps.

    Args:
        folder: Folder of its stage.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self) -> list[StepFigures]:
        """Return what was told so far."""
        return read_steps(self._folder)

    def add(self, told: StepFigures) -> None:
        """Tell of a step."""
        with (self._folder / STEPS).open("a", encoding="utf-8") as file:
            file.write(told.model_dump_json() + "\n")

    def write(self, steps: Sequence[StepFigures]) -> None:
        """Replace what was told."""
        write_whole(self._folder / STEPS, "".join(told.model_dump_json() + "\n" for told in steps).encode())

    def forget_after(self, step: int) -> None:
        """Forget the steps after one from which a training goes on."""
        self.write([told for told in self.read() if told.step <= step])


class StepReport(TrainerCallback):  # type: ignore[misc]
    """Reports the progress of a training, and tells of its steps in its folder.

    A training that goes on from a checkpoint tells the same as one that ran in one go.

    Args:
        trainer: The trainer.
        folder: Folder of its stage.
        progress: Called after every optimizer step.
        validation: Rows that are scored and never trained on.
    """

    def __init__(
        self, trainer: Any, folder: Path, progress: Progress, validation: Sequence[TokenizedRow] | None
    ) -> None:
        self._trainer, self._steps, self._progress, self._validation = trainer, StepFile(folder), progress, validation

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forget the steps that are taken again."""
        self._steps.forget_after(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell of a step, where it is one of those that are told of."""
        step, total = state.global_step, state.max_steps
        if is_told(step, total):
            told = StepFigures(step=step, total=total)
            if (means := self._trainer.step_means) is not None:
                told = told.model_copy(update={"loss": _finite(means.loss), "accuracy": means.accuracy})
            if self._validation is not None and is_told(step, total, VALIDATIONS):
                with self._trainer.defense.applied(self._trainer.model, self._trainer.memory):
                    found = self._scored(_sample(self._validation))
                told = told.model_copy(update={"valid_loss": found.loss, "valid_accuracy": found.accuracy})
            self._steps.add(told)
        self._progress(step, total)

    def conclude(self) -> None:
        """Score the whole validation file, once the training and the defense's last act are done."""
        steps = self._steps.read()
        if self._validation is None or not steps:
            return
        found = self._scored(self._validation)
        last = steps[-1].model_copy(update={"full_valid_loss": found.loss, "full_valid_accuracy": found.accuracy})
        self._steps.write([*steps[:-1], last])

    def _scored(self, rows: Sequence[TokenizedRow]) -> TokenFigures:
        trainer = self._trainer
        return token_figures(
            trainer.model,
            rows,
            trainer.processing_class.pad_token_id,
            batch_size=trainer.args.per_device_train_batch_size,
            autocast=trainer.accelerator.autocast,
        )


def is_told(step: int, total: int, most: int = MOST_STEPS) -> bool:
    """Return whether a step is one of about so many, evenly spread; the first and the last always are."""
    return step in (1, total) or step % math.ceil(total / most) == 0


def _sample(rows: Sequence[TokenizedRow]) -> list[TokenizedRow]:
    """Return the same rows every time, from all over the file."""
    count = min(SAMPLE, len(rows))
    return [rows[place * len(rows) // count] for place in range(count)]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
