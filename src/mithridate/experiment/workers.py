"""Does one stage's work, in this process or in a worker process."""

import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mithridate.experiment.jobs import CandidateJob, PreferenceJob, RepairJob, StageNode, TrainingJob
from mithridate.experiment.process_context import Surroundings
from mithridate.experiment.stage_folder import where_is
from mithridate.experiment.stage_records import StageRecord
from mithridate.experiment.store import Store

PATIENCE = 5.0
"""Seconds a worker has to end by itself after Ctrl-C, in which it can put a half-written file away."""


class StageTask(NamedTuple):
    """One stage as a worker gets it, with the stages before it in their order.

    The plan itself stays in the main process; it holds all rows.

    Attributes:
        processes: How many share the stage, where it can be shared.
    """

    node: StageNode
    ancestors: list[StageNode]
    processes: int = 1


def run_stage(store: Store, task: StageTask, progress: Callable[[int, int], None]) -> None:
    """Do one stage, or take its result from the store."""
    from mithridate.experiment.candidate_stage import write_candidate
    from mithridate.experiment.evaluation_stage import evaluate
    from mithridate.experiment.preference_stage import prefer
    from mithridate.experiment.repair_stage import repair
    from mithridate.experiment.shared_work import SharedWork, shared
    from mithridate.experiment.training_stage import train

    job = task.node.job
    # Found in the folders when the stage starts, since only a finished stage shows what it has left.
    found = where_is(job.model, [store.path(node) for node in task.ancestors])
    before = where_is(job.model, [store.path(node) for node in task.ancestors if node.stage == "alignment"])
    where, aligned = (one._replace(quantize=job.quantize) for one in (found, before))

    def work(folder: Path) -> StageRecord:
        # Here as well as in `enter`, since with one job the stage runs in the main process. The order of sums, and with
        # it the last bits, depends on the number of threads.
        torch.set_num_threads(job.threads)
        if isinstance(job, TrainingJob):
            if task.processes == 1:
                return train(job, where, folder, progress)
            record: StageRecord = shared(SharedWork(train, (job, where, folder), task.processes, job.threads), progress)
            return record
        if isinstance(job, PreferenceJob):
            return prefer(job, where, folder, progress)
        if isinstance(job, RepairJob):
            return repair(job, where, folder, progress, aligned)
        if isinstance(job, CandidateJob):
            return write_candidate(job, where, folder, progress)
        return evaluate(job, where, folder, progress, aligned, task.processes)

    store.make(task.node, work)


class Worker(NamedTuple):
    """What a worker process keeps between stages."""

    store: Store
    queue: Any


# Global, since a pool's initializer has no other way to hand something to the tasks.
_WORKER: Worker | None = None


def enter(surroundings: Surroundings, folder: Path, queue: Any, stop: Any, threads: int) -> None:
    """Set up a worker process.

    Args:
        surroundings: Of the run.
        folder: The store.
        queue: Takes (key, steps done, total of steps).
        stop: An event; once it is set, the process ends.
        threads: CPU threads.
    """
    global _WORKER
    # For libraries that are loaded from here on; torch is told in `run_stage`.
    surroundings.enter(OMP_NUM_THREADS=str(threads))
    _WORKER = Worker(Store(folder), queue)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal; the run ends us
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=end_with_parent, args=(stop,), daemon=True).start()
    quiet_libraries()


def _leave(number: int, frame: object) -> None:
    """End the process by an exception, so that open blocks clean up on its way out."""
    raise SystemExit(1)


def end_with_parent(stop: Any) -> None:
    """End this process when the one that asked for it is gone or stops, so that no orphan writes beside the next run.

    Args:
        stop: An event that the other process sets.
    """
    parent = parent_process()
    assert parent is not None, "only for processes that `multiprocessing` has started"
    # A killed process sends nothing; its end of a pipe is closed. Its id would not do: a server may be our parent.
    while parent.is_alive():
        if stop.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(PATIENCE)
            break
        time.sleep(0.2)
    # Not sys.exit, which would end this thread alone; and the main thread may be deep in C code and see no signal.
    os._exit(1)


def run_in_worker(task: StageTask) -> None:
    """Do one stage in a worker process."""
    assert _WORKER is not None
    store, queue = _WORKER
    run_stage(store, task, lambda done, total: queue.put((task.node.key, done, total)))


def quiet_libraries() -> None:
    """Silence the libraries' progress bars and advice; ours replace them."""
    import logging
    import warnings

    import datasets
    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # a line for every product of matrices
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
