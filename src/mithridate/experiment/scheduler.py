"""Runs stages in an order that respects their parents, in this process or in several."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol

from mithridate.errors import DefenseError
from mithridate.experiment.jobs import StageNode
from mithridate.experiment.monitor import Monitor
from mithridate.experiment.process_pool import process_pool
from mithridate.experiment.stage_pool import Placement, StagePool
from mithridate.experiment.store import Store
from mithridate.experiment.workers import StageTask, quiet_libraries, run_stage


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
        placement: Where they run, and how many at the same time.
        threads: CPU threads of each.
        monitor: Receives the run's progress.
    """

    def __init__(self, plan: StageGraph, store: Store, placement: Placement, threads: int, monitor: Monitor) -> None:
        self._plan, self._store, self._threads, self._monitor = plan, store, threads, monitor
        self._placement = placement
        self.failed: dict[str, tuple[StageNode, str]] = {}
        self.made = 0

    def run(self) -> None:
        """Run every stage once; a stage starts when its parent is done.

        Raises:
            MithridateError: The first error that is not a defense's; what is finished stays in the store.
        """
        nodes = list(self._plan.nodes.values())
        # By their folders alone, which are verified below: where nothing is left to do, no cluster is asked for.
        if self._placement.in_this_process or all(self._store.path(node).is_dir() for node in nodes):
            missing = self._missing(nodes, 1)
            quiet_libraries()
            # In this process: no second import of torch, and a debugger reaches the defense.
            for node in missing:
                self._run_here(node)
            return
        with self._pool() as pool:
            self._feed(pool, self._missing(nodes, pool.size))

    def _pool(self) -> AbstractContextManager[StagePool]:
        place = self._placement
        if place.engine == "local":
            return process_pool(self._store, place.jobs or 1, self._threads, self._monitor)
        from mithridate.experiment.ray_pool import ray_pool

        return ray_pool(self._store, place, self._threads, self._monitor)

    def _missing(self, nodes: list[StageNode], size: int) -> list[StageNode]:
        """Return the stages that the store lacks; of the others the monitor is told."""
        self._monitor.planned(nodes, size)
        # Nodes are listed parents first, and this keeps their order.
        return [node for node in nodes if not self._known(node)]

    def _known(self, node: StageNode) -> bool:
        known = self._store.has(node)
        if known:
            self._monitor.finished(node)
        return known

    def _task(self, node: StageNode) -> StageTask:
        return StageTask(node, self._plan.ancestors(node), self._placement.launch)

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

    def _feed(self, pool: StagePool, missing: list[StageNode]) -> None:
        waiting, running = list(missing), set[str]()
        while waiting or running:
            blocked = {node.key for node in waiting} | running
            for node in [n for n in waiting if n.parent not in blocked]:
                if pool.full:
                    break
                waiting.remove(node)
                if not self._left_out(node):
                    pool.begin(self._task(node))
                    running.add(node.key)
            for node, error in pool.ended():
                running.remove(node.key)
                if error is None:
                    self._done(node)
                else:
                    self._cannot_act(node, error)
