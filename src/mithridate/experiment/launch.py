"""How many processes share a stage, and what each of them gets of an optimizer step."""

from collections.abc import Iterable
from typing import NamedTuple

import torch

from mithridate.errors import UsageError
from mithridate.experiment.recipe_parts import TrainingSettings


class MicroBatches(NamedTuple):
    """How an optimizer step is split within one process.

    Attributes:
        rows: Rows of a micro-batch.
        number: Micro-batches of a step.
    """

    rows: int
    number: int


def micro_batches(training: TrainingSettings, processes: int) -> MicroBatches:
    """Return how each process splits its share of an optimizer step.

    The step has ``batch_size`` rows, however many processes share it. ``accumulation`` bounds the rows of a pass, and
    with them the memory: no process has more rows in a pass than one process alone would have.

    Args:
        training: The settings.
        processes: Processes that share the step; their number divides ``batch_size``.
    """
    share, most = training.batch_size // processes, training.batch_size // training.accumulation
    rows = max(rows for rows in range(1, min(share, most) + 1) if share % rows == 0)
    return MicroBatches(rows, share // rows)


def check_launch(processes: int, trainings: Iterable[TrainingSettings], here: bool = True) -> None:
    """Refuse a number of processes that cannot share the work, before any of it is done.

    Args:
        processes: How many are asked for.
        trainings: The trainings that they would share.
        here: Whether they run on this machine; the nodes of a cluster have GPUs of their own.

    Raises:
        UsageError: If there are too few GPUs, or a training's batch cannot be shared evenly.
    """
    if processes < 1:
        raise UsageError(f"launch is {processes}; it must be a number of processes, 1 or more")
    # On one GPU two processes would wait for each other's memory, and NCCL refuses it.
    if here and torch.cuda.is_available() and processes > torch.cuda.device_count():
        raise UsageError(
            f"{processes} processes were asked for and there are {torch.cuda.device_count()} GPUs; each needs its own"
        )
    for training in trainings:
        if training.batch_size % processes:
            raise UsageError(
                f"batch_size {training.batch_size} cannot be shared evenly by {processes} processes; set launch to a "
                "divisor of it"
            )
