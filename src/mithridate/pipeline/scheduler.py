"""Runs stages in an order that respects their parents, in this process or in several."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mithridate.errors import MithridateError
from mithridate.pipeline.models import ADAPTER, MODEL, TOKENIZER, Where
from mithridate.pipeline.plan import Node
from mithridate.pipeline.store import Store


class Monitor(Protocol):
    """Watches the run; the command line draws progress bars with it."""

    def planned(self, total: int) -> None:
        """The run has so many stages."""

    def started(self, node: Node) -> None:
        """A stage begins."""

    def progressed(self, key: str, done: int, total: int) -> None:
        """A stage is so far."""

    def finished(self, node: Node) -> None:
        """A stage is done, or was found in the store."""


class Silent:
    """A monitor that shows nothing."""

    def planned(self, total: int) -> None:
        """Nothing."""

    def started(self, node: Node) -> None:
        """Nothing."""

    def progressed(self, key: str, done: int, total: int) -> None:
        """Nothing."""

    def finished(self, node: Node) -> None:
        """Nothing."""


class Job(NamedTuple):
    """One stage as a worker gets it."""

    store: Path
    node: Node
    ancestors: list[Node]


def where_is(store: Store, ancestors: list[Node], model: str) -> Where:
    """The model that the last of the stages left behind."""
    where = Where(model, None)
    for node in ancestors:
        folder = store.path(node.stage, node.key)
        if (folder / MODEL).is_dir():
            where = Where(str(folder / MODEL), None, where.served)
        elif (folder / ADAPTER).is_dir():
            where = Where(where.base, str(folder / ADAPTER), where.served)
        if (folder / TOKENIZER).is_dir():
            where = where._replace(served=str(folder / TOKENIZER))
    return where


def run_job(job: Job, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Do one stage, or take its result from the store."""
    from mithridate.pipeline.stages import work

    store, node = Store(job.store), job.node
    model = node.spec["model"]
    where = where_is(store, job.ancestors, model)
    aligned = where_is(store, [ancestor for ancestor in job.ancestors if ancestor.stage == "alignment"], model)
    return store.make(
        node.stage, node.key, lambda folder: work(node.stage, node.spec, where, folder, progress, aligned)
    )


_QUEUE: Any = None


def _enter(queue: Any, threads: int, parent: int) -> None:
    """Set a worker process up: its thread count must be fixed before torch starts threads."""
    global _QUEUE
    _QUEUE = queue
    os.environ["OMP_NUM_THREADS"] = str(threads)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    quiet_libraries()


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, so that no orphan writes beside the next run."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _run_in_worker(job: Job) -> dict[str, Any]:
    return run_job(job, lambda done, total: _QUEUE.put((job.node.key, done, total)))


def quiet_libraries() -> None:
    """Silence progress bars and advice of the libraries; ours replace them."""
    import warnings

    import datasets
    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def run_all(store: Store, nodes: dict[str, Node], jobs: int, threads: int, monitor: Monitor) -> None:
    """Run every stage once; a stage starts when its parent is done.

    Raises:
        MithridateError: The first failure; what is finished stays in the store.
    """
    monitor.planned(len(nodes))
    missing = [node for node in nodes.values() if not _known(store, node, monitor)]
    if jobs == 1:
        quiet_libraries()
        for node in missing:
            monitor.started(node)
            run_job(_job(store, node, nodes), partial(monitor.progressed, node.key))
            monitor.finished(node)
    elif missing:
        _run_parallel(store, nodes, missing, jobs, threads, monitor)


def _known(store: Store, node: Node, monitor: Monitor) -> bool:
    known = store.result(node.stage, node.key) is not None
    if known:
        monitor.finished(node)
    return known


def _job(store: Store, node: Node, nodes: dict[str, Node]) -> Job:
    ancestors: list[Node] = []
    parent = node.parent
    while parent is not None:
        ancestors.insert(0, nodes[parent])
        parent = nodes[parent].parent
    return Job(store.folder, node, ancestors)


def _run_parallel(
    store: Store, nodes: dict[str, Node], missing: list[Node], jobs: int, threads: int, monitor: Monitor
) -> None:
    context = get_context("spawn")
    queue: Any = context.SimpleQueue()
    with ProcessPoolExecutor(jobs, context, _enter, (queue, threads, os.getpid())) as pool:
        waiting, running = list(missing), dict[Future[Any], Node]()
        try:
            while waiting or running:
                blocked = {node.key for node in [*waiting, *running.values()]}
                for node in [n for n in waiting if n.parent not in blocked][: jobs - len(running)]:
                    waiting.remove(node)
                    running[pool.submit(_run_in_worker, _job(store, node, nodes))] = node
                    monitor.started(node)
                done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                while not queue.empty():
                    monitor.progressed(*queue.get())
                for future in done:
                    future.result()
                    monitor.finished(running.pop(future))
        except BrokenProcessPool as error:
            raise MithridateError(
                "a worker process died, most likely for lack of memory; run the same command again "
                "with --jobs 1, finished stages are kept"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
