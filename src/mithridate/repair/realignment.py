"""Training inside a repair: the weights are trained on, and nothing else of the model or of the process is changed."""

import copy
import math
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase, PrinterCallback
from trl import SFTConfig

from mithridate.errors import DefenseError
from mithridate.models.modes import is_half
from mithridate.models.tokenization import Rows
from mithridate.models.undo import about_to_overwrite
from mithridate.training.defense import Defense
from mithridate.training.trainable_weights import Weights
from mithridate.training.trainer import DefendedTrainer

FEWEST_STEPS = 10
"""Optimizer steps taken however few rows there are; a single row is trained on as often as this."""


@dataclass(frozen=True)
class Course:
    """How long and how fast to train.

    Attributes:
        learning_rate: Of AdamW, constant.
        epochs: Passes over the rows.
        step_rows: Rows of an optimizer step.
        max_length: Longest row in tokens.
        seed: Seed of the order of rows and of dropout.
    """

    learning_rate: float
    epochs: float
    step_rows: int
    max_length: int | None
    seed: int

    def steps(self, rows: int) -> int:
        """Optimizer steps over so many rows."""
        return max(FEWEST_STEPS, math.ceil(self.epochs * rows / self.step_rows))


def train_on(
    model: nn.Module,
    weights: Weights,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Any],
    defense: Defense,
    course: Course,
    harmful: Rows | None,
    refusals: Sequence[str],
) -> dict[str, float]:
    """Train some weights of a finished model in place, by an alignment-stage defense.

    Args:
        model: The model.
        weights: What to train; everything else is frozen.
        tokenizer: Its tokenizer; a copy is used.
        rows: Safe prompt/completion rows.
        defense: The defense.
        course: How long and how fast.
        harmful: The provider's harmful rows, where the defense needs them.
        refusals: Refusal sentences, likewise.

    Returns:
        Steps taken, rows trained on, and the figures of the defense's last act.

    Raises:
        DefenseError: If the weights are half precision, whose optimizer steps would round away, or the defense
            cannot act.
    """
    # AdamW's steps are far below the spacing of bfloat16 numbers.
    half = [name for name, weight in zip(weights.names, weights.parameters, strict=True) if is_half(weight)]
    if half:
        raise DefenseError(
            f"'{half[0]}' is half precision, in which steps of training round away; load the model in float32, or "
            "give it an adapter"
        )
    steps = course.steps(len(rows))
    about_to_overwrite(weights.parameters)
    with tempfile.TemporaryDirectory(prefix="realign-") as folder, _kept(model), _only_trained(model, weights):
        trainer = DefendedTrainer(
            model,
            args=_arguments(course, steps, folder, model),
            train_dataset=list(rows),
            processing_class=copy.deepcopy(tokenizer),
            defense=defense,
            stage="alignment",
            harmful_dataset=harmful,
            refusals=refusals,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return {"steps": steps, "rows_trained": steps * course.step_rows, **trainer.finished}


def _arguments(course: Course, steps: int, folder: str, model: nn.Module) -> SFTConfig:
    device = next(model.parameters()).device
    return SFTConfig(
        output_dir=folder,
        max_steps=steps,
        learning_rate=course.learning_rate,
        lr_scheduler_type="constant",
        per_device_train_batch_size=course.step_rows,
        max_length=course.max_length,
        seed=course.seed,
        bf16=any(parameter.dtype == torch.bfloat16 for parameter in model.parameters()),
        gradient_checkpointing=False,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type != "cpu",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        report_to="none",
    )


@contextmanager
def _only_trained(model: nn.Module, weights: Weights) -> Iterator[None]:
    """Inside the block these weights alone are trained; the repair around it restores all flags."""
    model.requires_grad_(False)
    for parameter in weights.parameters:
        parameter.requires_grad_(True)
    yield


@contextmanager
def _kept(model: nn.Module) -> Iterator[None]:
    """A trainer sets seeds, configurations and tags; after the block they are as before."""
    configurations = {id(m): (m, copy.deepcopy(m.__dict__)) for m in _configurations(model)}
    tags = [(m, copy.copy(m.model_tags)) for m in model.modules() if getattr(m, "model_tags", None) is not None]
    states = random.getstate(), numpy.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(states[0])
        numpy.random.set_state(states[1])
        for configuration, before in configurations.values():
            configuration.__dict__.clear()
            configuration.__dict__.update(before)
        for module, before in tags:
            module.model_tags = before


def _configurations(model: nn.Module) -> list[Any]:
    """The configurations of all modules, each once."""
    named = ("config", "generation_config")
    found = [getattr(module, name, None) for module in model.modules() for name in named]
    return list({id(item): item for item in found if hasattr(item, "__dict__")}.values())
