"""Runs stages as tasks on the nodes of a Ray cluster.

The run stays where it was started: it plans, submits a stage once its parent is done, and reads results from the store,
a folder that all nodes share. A stage whose worker or node is lost is begun again, from its last checkpoint.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mithridate.errors import DefenseError, MithridateError
from mithridate.experiment.monitor import Monitor
from mithridate.experiment.ray_cluster import StageNeeds, alive_nodes, checked_place, connected, needs_of
from mithridate.experiment.ray_task import NewsBoard, RunPlace, do_stage, in_sight
from mithridate.experiment.stage_pool import EndedStage, Placement
from mithridate.experiment.store import Store
from mithridate.experiment.workers import PATIENCE, StageTask

LOSSES = 3
"""Workers that a stage may lose one after the other without having come a step further."""
NO_NODE = 600.0
"""Seconds to wait for a node after the last one that could take a stage is lost; a cluster takes minutes to grow."""
_LOOK = 5.0  # seconds between two looks at the nodes


class StageAttempt:
    """A stage that was submitted.

    Attributes:
        number: Which attempt at it.
        started: Whether a node has begun it.
        steps: The furthest step of all attempts.
        losses: Attempts lost since that step.
    """

    def __init__(self, task: StageTask) -> None:
        self.task, self.node = task, task.node
        self.number, self.started = 1, False
        self.steps, self.losses = 0, 0
        self._before = 0

    def lost(self) -> None:
        """Count the attempt as lost and make ready for the next."""
        self.losses = 1 if self.steps > self._before else self.losses + 1
        self._before, self.number, self.started = self.steps, self.number + 1, False


class RayPool:
    """The nodes of a cluster as a pool.

    Attributes:
        size: Stages that run at the same time on the nodes there are.

    Args:
        store: Where results go.
        place: Where the run stands.
        needs: What a stage reserves.
        jobs: Stages that run at the same time; None for as many as the cluster takes.
        monitor: Receives the run's progress.
    """

    def __init__(self, store: Store, place: RunPlace, needs: StageNeeds, jobs: int | None, monitor: Monitor) -> None:
        # Inside, as everywhere here: Ray is an extra.
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray: Any = ray
        self._store, self._place, self._needs, self._jobs, self._monitor = store, place, needs, jobs, monitor
        slots = max(1, sum(map(needs.fit, alive_nodes())))  # a node may just have left
        self.size = slots if jobs is None else min(jobs, slots)
        # On the run's own node: with any other it could be lost.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._board: Any = ray.remote(num_cpus=0)(NewsBoard).options(scheduling_strategy=here).remote()
        # Retried here and not by Ray, which would tell nobody, and repeats what lacks memory without an end.
        self._stage: Any = ray.remote(
            num_cpus=needs.cpus, num_gpus=needs.gpus, max_retries=0, scheduling_strategy="SPREAD"
        )(do_stage)
        self._running: dict[Any, StageAttempt] = {}
        self._node_seen = self._looked = time.monotonic()

    @property
    def full(self) -> bool:
        """Whether there are as many stages as were asked for; Ray keeps those that no node takes yet."""
        return self._jobs is not None and len(self._running) >= self._jobs

    def begin(self, task: StageTask) -> None:
        """Submit a stage."""
        self._submit(StageAttempt(task))

    def _submit(self, attempt: StageAttempt) -> None:
        self._running[self._stage.remote(self._place, attempt.task, attempt.number, self._board)] = attempt

    def ended(self) -> list[EndedStage]:
        """Wait a moment, and return the stages that have ended.

        Raises:
            MithridateError: If a stage fails, loses worker after worker, or no node is left.
        """
        if not self._running:
            return []
        # With a timeout, since news arrives while no stage ends.
        done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=0.2)
        self._hear()
        self._look_for_nodes()
        ended = [self._collected(reference, self._running.pop(reference)) for reference in done]
        return [one for one in ended if one is not None]

    def _hear(self) -> None:
        """Tell the monitor what nodes have told."""
        attempts = {(one.node.key, one.number): one for one in self._running.values()}
        for news in self._ray.get(self._board.taken.remote()):
            attempt = attempts.get((news.key, news.attempt))
            if attempt is None:
                continue  # of an attempt that was lost
            self._start(attempt)
            if news.steps is not None:
                attempt.steps = max(attempt.steps, news.steps)
                self._monitor.progressed(attempt.node, news.steps, news.total)

    def _start(self, attempt: StageAttempt) -> None:
        if not attempt.started:
            attempt.started = True
            self._monitor.started(attempt.node)

    def _collected(self, reference: Any, attempt: StageAttempt) -> EndedStage | None:
        """Return how a stage ended; None where its worker was lost and it was submitted again."""
        faults = self._ray.exceptions
        try:
            self._ray.get(reference)
        except faults.RayTaskError as error:
            if isinstance(error.cause, DefenseError):
                return EndedStage(attempt.node, error.cause)
            if isinstance(error.cause, MithridateError):
                raise error.cause from None
            raise
        except faults.RayError as error:
            self._again(attempt, str(error).strip().splitlines()[0])
            return None
        self._start(attempt)  # its news may come later than its end
        made = self._store.path(attempt.node)
        if not in_sight(made):
            raise MithridateError(
                f"'{attempt.node.label}' is finished, but {made} is not seen here; give --out a folder that all nodes "
                "share"
            )
        return EndedStage(attempt.node, None)

    def _again(self, attempt: StageAttempt, reason: str) -> None:
        attempt.lost()
        if attempt.losses >= LOSSES:
            raise MithridateError(
                f"'{attempt.node.label}' has lost {LOSSES} workers without coming a step further ({reason}), perhaps "
                "for lack of memory; see Ray's logs, and run the same command again, finished stages are kept"
            )
        self._monitor.lost(attempt.node, reason)
        self._submit(attempt)

    def _look_for_nodes(self) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        if any(map(self._needs.fit, alive_nodes())):
            self._node_seen = now
        elif now - self._node_seen > NO_NODE:
            raise MithridateError(
                f"for {NO_NODE:.0f} s the Ray cluster has had no node with {self._needs.told()}; finished stages are "
                "kept, run the same command again once it has one"
            )

    def finish(self) -> None:
        """Drop the stages that have not begun, and wait for the others, which stay in the store."""
        self._hear()
        for reference, attempt in self._running.items():
            if not attempt.started:
                self._ray.cancel(reference)
        if self._running:
            self._ray.wait(list(self._running), num_returns=len(self._running))

    def stop(self) -> None:
        """End all stages: asked first, by force after a time."""
        left = list(self._running)
        for reference in left:
            self._ray.cancel(reference)
        for force in (False, True):
            if left:
                _, left = self._ray.wait(left, num_returns=len(left), timeout=PATIENCE)
            for reference in [] if force else left:
                self._ray.cancel(reference, force=True)

    def close(self) -> None:
        """End the actor, which would live as long as the connection."""
        self._ray.kill(self._board)


@contextmanager
def ray_pool(store: Store, placement: Placement, threads: int, monitor: Monitor) -> Iterator[RayPool]:
    """Connect to a cluster and check its nodes, for a block.

    Args:
        store: Where results go, in a folder that all nodes share.
        placement: The cluster's address, and how many stages run at the same time.
        threads: CPU threads of each process.
        monitor: Receives the run's progress.

    Raises:
        UsageError: If there is no such cluster, or a node cannot take stages.
    """
    with connected(placement.ray_address):
        needs = needs_of(threads, placement.launch)
        with checked_place(store, threads, needs) as place:
            pool = RayPool(store, place, needs, placement.jobs, monitor)
            try:
                yield pool
            except Exception:
                pool.finish()
                raise
            except BaseException:  # Ctrl-C, or a signal to end
                pool.stop()
                raise
            finally:
                pool.close()
