"""Runs stages in an order that respects their parents, in this process or in several."""

import os
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from typing import Any, Protocol

from mithridate.errors import DefenseError, MithridateError
from mithridate.experiment.jobs import StageNode
from mithridate.experiment.monitor import Monitor
from mithridate.experiment.store import Store
from mithridate.experiment.workers import StageTask, enter, quiet_libraries, run_in_worker, run_stage


class StageGraph(Protocol):
    """Stages, and what comes before each: a `Plan`, or several put together."""

    @property
    def nodes(self) -> Mapping[str, StageNode]:
        """The stages by key, each after those before it."""

    def ancestors(self, node: StageNode) -> list[StageNode]:
        """Return the stages before a stage, in their order."""


class Scheduler:
    """The stages of a plan that the store lacks.

    If a stage's defense cannot act, only that stage and those that need it are left out; the others go on. Any
    other error stops the run; what is finished stays in the store.

    Attributes:
        failed: Why a stage could not be done, by key: the stage at fault, itself or one before it, and the reason.
        made: Stages done by this run; the others were in the store.

    Args:
        plan: The stages.
        store: Where their results go.
        jobs: Stages that run at the same time.
        threads: CPU threads of each.
        monitor: Receives the run's progress.
        launch: Processes that share each training and each evaluation.
    """

    def __init__(
        self, plan: StageGraph, store: Store, jobs: int, threads: int, monitor: Monitor, launch: int = 1
    ) -> None:
        self._launch = launch
        self._plan, self._store, self._jobs, self._threads, self._monitor = plan, store, jobs, threads, monitor
        self.failed: dict[str, tuple[StageNode, str]] = {}
        self.made = 0

    def run(self) -> None:
        """Run every stage once; a stage starts when its parent is done.

        Raises:
            MithridateError: The first error that is not a defense's; what is finished stays in the store.
        """
        nodes = list(self._plan.nodes.values())
        self._monitor.planned(nodes, self._jobs)
        # Nodes are listed parents first, and this keeps their order.
        missing = [node for node in nodes if not self._known(node)]
        # A single job stays in this process: no second import of torch, and a debugger reaches the defense.
        if self._jobs == 1:
            quiet_libraries()
            for node in missing:
                self._run_here(node)
        elif missing:
            self._run_parallel(missing)

    def _known(self, node: StageNode) -> bool:
        known = self._store.has(node)
        if known:
            self._monitor.finished(node)
        return known

    def _task(self, node: StageNode) -> StageTask:
        return StageTask(node, self._plan.ancestors(node), self._launch)

    def _left_out(self, node: StageNode) -> bool:
        """Tell whether a stage before this one failed; this one then fails for the same reason."""
        # The parent is enough: it has taken over the cause of its own parent.
        cause = self.failed.get(node.parent or "")
        if cause is None:
            return False
        self.failed[node.key] = cause
        self._monitor.failed(node, cause[1])
        return True

    def _cannot_act(self, node: StageNode, error: DefenseError) -> None:
        self.failed[node.key] = node, str(error)
        self._monitor.failed(node, str(error))

    def _done(self, node: StageNode) -> None:
        self.made += 1
        self._monitor.finished(node)

    def _run_here(self, node: StageNode) -> None:
        if self._left_out(node):
            return
        self._monitor.started(node)
        try:
            run_stage(self._store, self._task(node), partial(self._monitor.progressed, node))
        except DefenseError as error:
            self._cannot_act(node, error)
        else:
            self._done(node)

    def _run_parallel(self, missing: list[StageNode]) -> None:
        # Not fork: CUDA cannot be used in a forked process, and torch's threads do not survive in one.
        context = get_context("spawn")
        # Simple, without a feeder thread for which a worker that has to end would wait.
        queue: Any = context.SimpleQueue()
        stop = context.Event()
        settings = (self._store.folder, queue, stop, self._threads, os.getpid())
        with ProcessPoolExecutor(self._jobs, context, enter, settings) as pool:
            try:
                self._feed(pool, queue, missing)
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
                pool.shutdown(wait=True, cancel_futures=True)

    def _feed(self, pool: ProcessPoolExecutor, queue: Any, missing: list[StageNode]) -> None:
        waiting, running = list(missing), dict[Future[None], StageNode]()
        while waiting or running:
            blocked = {node.key for node in [*waiting, *running.values()]}
            for node in [n for n in waiting if n.parent not in blocked]:
                # No more than can run now: a stage in the pool's own queue would be shown as started.
                if len(running) == self._jobs:
                    break
                waiting.remove(node)
                if not self._left_out(node):
                    running[pool.submit(run_in_worker, self._task(node))] = node
                    self._monitor.started(node)
            # With a timeout, since progress arrives while no stage ends.
            done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            # Emptied before stages are collected, so that no step is reported of a stage that has ended.
            while not queue.empty():
                key, steps, total = queue.get()
                self._monitor.progressed(self._plan.nodes[key], steps, total)
            for future in done:
                self._collect(future, running.pop(future))

    def _collect(self, future: Future[None], node: StageNode) -> None:
        try:
            future.result()
        except DefenseError as error:
            self._cannot_act(node, error)
        else:
            self._done(node)
