"""One stage's work, in this process or in a worker process."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mithridate.experiment.jobs import RepairJob, StageNode, TrainingJob
from mithridate.experiment.stage_folder import where_is
from mithridate.experiment.stage_records import StageRecord
from mithridate.experiment.store import Store

PATIENCE = 5.0
"""Seconds that a worker has to end by itself after Ctrl-C."""


class StageTask(NamedTuple):
    """One stage as a worker gets it, with the stages before it in their order."""

    node: StageNode
    ancestors: list[StageNode]


def run_stage(store: Store, task: StageTask, progress: Callable[[int, int], None]) -> None:
    """Do one stage, or take its result from the store."""
    from mithridate.experiment.evaluation_stage import evaluate
    from mithridate.experiment.repair_stage import repair
    from mithridate.experiment.training_stage import train

    job = task.node.job
    where = where_is(job.model, [store.path(node) for node in task.ancestors])
    aligned = where_is(job.model, [store.path(node) for node in task.ancestors if node.stage == "alignment"])

    def work(folder: Path) -> StageRecord:
        torch.set_num_threads(job.threads)
        if isinstance(job, TrainingJob):
            return train(job, where, folder, progress)
        if isinstance(job, RepairJob):
            return repair(job, where, folder, progress, aligned)
        return evaluate(job, where, folder, progress, aligned)

    store.make(task.node, work)


class Worker(NamedTuple):
    """What a worker process holds."""

    store: Store
    queue: Any


_WORKER: Worker | None = None


def enter(folder: Path, queue: Any, stop: Any, threads: int, parent: int) -> None:
    """Set a worker process up: its thread count must be fixed before torch starts threads.

    Args:
        folder: The store.
        queue: Takes (key, steps done, steps in all).
        stop: An event; once it is set, the process ends.
        threads: CPU threads.
        parent: Process id of the run.
    """
    global _WORKER
    _WORKER = Worker(Store(folder), queue)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal; the run ends us
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with, args=(parent, stop), daemon=True).start()
    quiet_libraries()


def _leave(number: int, frame: object) -> None:
    """Give the stage up, so that the process can put away what it holds before it ends."""
    raise SystemExit(1)


def _end_with(parent: int, stop: Any) -> None:
    """End this process when its parent is gone or stops, so that no orphan writes beside the next run."""
    while os.getppid() == parent:
        if stop.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(PATIENCE)
            break
        time.sleep(0.2)
    os._exit(1)


def run_in_worker(task: StageTask) -> None:
    """Do one stage in a worker process."""
    assert _WORKER is not None
    store, queue = _WORKER
    run_stage(store, task, lambda done, total: queue.put((task.node.key, done, total)))


def quiet_libraries() -> None:
    """Silence progress bars and advice of the libraries; ours replace them."""
    import warnings

    import datasets
    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
