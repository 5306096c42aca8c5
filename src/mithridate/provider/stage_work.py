"""Does one stage of a policy's work, unless the store has it."""

from functools import partial

from mithridate.experiment.jobs import StageNode
from mithridate.experiment.monitor import Monitor
from mithridate.experiment.store import Store
from mithridate.experiment.workers import StageTask, run_stage


def done(store: Store, node: StageNode, before: list[StageNode], monitor: Monitor, launch: int = 1) -> None:
    """Have a stage's result in the store.

    Args:
        store: Where results are kept.
        node: The stage.
        before: The stages before it, in their order.
        monitor: Receives the progress.
        launch: Processes that share it, where it can be shared.
    """
    if store.has(node):
        return
    monitor.started(node)
    run_stage(store, StageTask(node, before, launch), partial(monitor.progressed, node))
    monitor.finished(node)
