"""Work for several processes, in a module that they can import."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from torch import distributed

from mithridate.errors import DataError
from mithridate.experiment import training_stage
from mithridate.experiment.jobs import TrainingJob
from mithridate.experiment.stage_records import TrainingRecord
from mithridate.models.loading import Where

Report = Callable[[int, int], None]


def counted(start: int, report: Report) -> tuple[int, int, str]:
    """The sum of all ranks, how many there are, and a variable of the environment."""
    report(distributed.get_rank() + 1, 9)
    ranks = [0] * distributed.get_world_size()
    distributed.all_gather_object(ranks, distributed.get_rank())
    return start + sum(ranks), len(ranks), os.environ.get("LAUNCH_TEST", "")


def refused(report: Report) -> None:
    """The second process cannot go on, and the first waits for it."""
    if distributed.get_rank() == 1:
        raise DataError("row 3 of a.jsonl is empty; remove it")
    distributed.barrier()


def faulty(report: Report) -> None:
    if distributed.get_rank() == 1:
        raise ZeroDivisionError("a fault of ours")
    distributed.barrier()


def killed(report: Report) -> None:
    if distributed.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.barrier()


def leaving(report: Report) -> None:
    if distributed.get_rank() == 1:
        os._exit(7)
    distributed.barrier()


def large(report: Report) -> bytes:
    """More than a pipe holds."""
    return bytes(5_000_000)


def killed_in_tuning(job: TrainingJob, where: Where, folder: Path, report: Report) -> TrainingRecord:
    """A training stage whose first process, the one that writes, is killed in the third step of fine-tuning."""

    def until_killed(done: int, total: int) -> None:
        if (job.stage, done) == ("finetuning", 3):
            os.kill(os.getpid(), signal.SIGKILL)
        report(done, total)

    return training_stage.train(job, where, folder, until_killed)
