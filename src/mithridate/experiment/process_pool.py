"""Runs stages in processes of this machine."""

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from mithridate.errors import DefenseError, MithridateError
from mithridate.experiment.jobs import StageNode
from mithridate.experiment.monitor import Monitor
from mithridate.experiment.process_context import Surroundings, process_context
from mithridate.experiment.stage_pool import EndedStage
from mithridate.experiment.store import Store
from mithridate.experiment.workers import StageTask, enter, run_in_worker


class ProcessPool:
    """A pool of worker processes.

    Attributes:
        size: How many there are.

    Args:
        executor: The processes.
        queue: What they say of their progress: (key, steps done, total of steps).
        size: How many there are.
        monitor: Receives the run's progress.
    """

    def __init__(self, executor: ProcessPoolExecutor, queue: Any, size: int, monitor: Monitor) -> None:
        self._executor, self._queue, self.size, self._monitor = executor, queue, size, monitor
        self._running: dict[Future[None], StageNode] = {}

    @property
    def full(self) -> bool:
        """Whether every process has a stage."""
        # No more than can run now: a stage in the executor's own queue would be shown as started.
        return len(self._running) == self.size

    def begin(self, task: StageTask) -> None:
        """Start a stage."""
        self._running[self._executor.submit(run_in_worker, task)] = task.node
        self._monitor.started(task.node)

    def ended(self) -> list[EndedStage]:
        """Wait a moment, and return the stages that have ended."""
        # With a timeout, since progress arrives while no stage ends.
        done, _ = wait(self._running, timeout=0.2, return_when=FIRST_COMPLETED)
        # Emptied before stages are collected, so that no step is reported of a stage that has ended.
        nodes = {node.key: node for node in self._running.values()}
        while not self._queue.empty():
            key, steps, total = self._queue.get()
            self._monitor.progressed(nodes[key], steps, total)
        return [_collected(future, self._running.pop(future)) for future in done]


def _collected(future: Future[None], node: StageNode) -> EndedStage:
    try:
        future.result()
    except DefenseError as error:
        return EndedStage(node, error)
    return EndedStage(node, None)


@contextmanager
def process_pool(store: Store, jobs: int, threads: int, monitor: Monitor) -> Iterator[ProcessPool]:
    """Start worker processes, which end with the block.

    Args:
        store: Where results go.
        jobs: How many processes.
        threads: CPU threads of each.
        monitor: Receives the run's progress.

    Raises:
        MithridateError: If one of them is killed.
    """
    context = process_context()
    # Simple, without a feeder thread for which a worker that has to end would wait.
    queue: Any = context.SimpleQueue()
    stop = context.Event()
    arguments = (Surroundings.here(), store.folder, queue, stop, threads)
    with ProcessPoolExecutor(jobs, context, enter, arguments) as executor:
        try:
            yield ProcessPool(executor, queue, jobs, monitor)
        except BrokenProcessPool as error:
            # The kernel's out-of-memory killer leaves no trace that could be read here.
            raise MithridateError(
                "a worker process died, most likely for lack of memory; run the same command again "
                "with --jobs 1, finished stages are kept"
            ) from error
        except KeyboardInterrupt:
            stop.set()  # workers would otherwise finish their stages first
            raise
        finally:
            # On an error of one stage, those under way finish and stay in the store; those not begun are dropped.
            executor.shutdown(wait=True, cancel_futures=True)
