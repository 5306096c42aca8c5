"""What a node of a Ray cluster does: checks that it has the run's code, store and inputs, then does one stage."""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock, Timeout

from mithridate.errors import MithridateError, UsageError
from mithridate.experiment.identity import identity_of, model_identity
from mithridate.experiment.manifest import code_versions
from mithridate.experiment.store import Store, key_of
from mithridate.experiment.workers import StageTask, quiet_libraries, run_stage

SIGHT = 60.0
"""Seconds in which a file that another node wrote comes into sight: NFS looks anew after that time at the latest."""
TURN = 600.0
"""Seconds to wait for an earlier attempt at a stage, on a node that was taken for lost, to end."""
PAUSE = 0.1
"""Seconds between two reports of progress."""


class RunPlace(NamedTuple):
    """Where a run stands, in plain types.

    Attributes:
        store: Folder of the store.
        mark: Name of a file in it, by which a node knows that it sees the same folder.
        token: What that file holds.
        folder: Working directory of the run.
        environment: Environment variables that a stage reads.
        versions: Versions of what decides a result.
        gpus: GPUs that a stage has reserved.
    """

    store: str
    mark: str
    token: str
    folder: str
    environment: dict[str, str]
    versions: dict[str, str]
    gpus: int = 0


class StageNews(NamedTuple):
    """What a node tells of a stage.

    Attributes:
        key: The stage's key.
        attempt: Which attempt at it.
        steps: Steps done; None where it has just started.
        total: Steps in all.
    """

    key: str
    attempt: int
    steps: int | None = None
    total: int = 0


class NewsBoard:
    """Keeps what nodes tell until the run asks for it; lives as an actor on the run's own node."""

    def __init__(self) -> None:
        self._news: list[StageNews] = []

    def tell(self, news: StageNews) -> None:
        """Take in a piece of news."""
        self._news.append(news)

    def taken(self) -> list[StageNews]:
        """Return the news since the last call, in their order."""
        news, self._news = self._news, []
        return news


def check_node(place: RunPlace, reply: str | None = None) -> None:
    """Check that this node has the run's code, and reads and writes its store.

    Args:
        place: Where the run stands.
        reply: Name of a file to write into the store, for the run to find.

    Raises:
        UsageError: If it does not.
    """
    own = code_versions()
    others = {name: wanted for name, wanted in place.versions.items() if own.get(name) != wanted}
    if others:
        told = ", ".join(f"{name} {own.get(name, '?')[:12]}, here {wanted[:12]}" for name, wanted in others.items())
        raise UsageError(f"it has other code ({told}); install the same versions on every node")
    mark = Path(place.store, place.mark)
    try:
        shared = mark.read_text(encoding="utf-8") == place.token
        if shared and reply is not None:
            mark.with_name(reply).write_text(place.token, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"it cannot use {place.store} ({error.strerror}); give --out a folder that all nodes share"
        ) from error
    if not shared:
        raise UsageError(f"its {place.store} is another folder; give --out a folder that all nodes share")


def check_gpus(reserved: int) -> None:
    """Check that a stage that was given GPUs would use them, and not run on CPUs for days.

    Raises:
        UsageError: If torch sees fewer.
    """
    seen = torch.cuda.device_count()
    if seen < reserved:
        raise UsageError(f"Ray has reserved {reserved} GPUs, of which torch sees {seen}; install its build for them")


def do_stage(place: RunPlace, task: StageTask, attempt: int, board: Any) -> None:
    """Do one stage on this node.

    Args:
        place: Where the run stands.
        task: The stage.
        attempt: Which attempt at it.
        board: The actor that takes the news.

    Raises:
        UsageError: If this node cannot do what the run's own node would.
    """
    node, store = task.node, Store(Path(place.store))
    board.tell.remote(StageNews(node.key, attempt))
    enter_place(place)
    try:
        check_node(place)
        check_gpus(place.gpus)
        _check_inputs(task, store)
    except UsageError as error:
        raise UsageError(f"node {socket.gethostname()} of the cluster cannot do '{node.label}': {error}") from error
    quiet_libraries()

    def tell(done: int, total: int) -> None:
        board.tell.remote(StageNews(node.key, attempt, done, total))

    with _turn(store, task):
        run_stage(store, task, throttled(tell))


def enter_place(place: RunPlace) -> None:
    """Take over the run's environment variables and its working directory."""
    os.environ |= place.environment
    # For relative paths of a recipe; where there are none, the run may have been started anywhere.
    if Path(place.folder).is_dir():
        os.chdir(place.folder)


def _check_inputs(task: StageTask, store: Store) -> None:
    """Check that what the stage reads is here, and is what the run's own node has planned with."""
    first = [*task.ancestors, task.node][0]
    planned = [(first, model_identity(first.job.model)), (task.node, task.node.parent)]
    for node, origin in planned:
        # The key covers the files of models, judges, templates and plug-ins, which lie outside the store.
        if origin is not None and key_of(identity_of(node.job, origin)) != node.key:
            raise UsageError(
                f"the model {node.job.model}, a judge, a chat template or a plug-in is missing there or is another one "
                "than here; put the same files under the same path on every node"
            )
    for ancestor in task.ancestors:
        if not in_sight(store.path(ancestor)):
            raise UsageError(f"it does not see {store.path(ancestor)}, which another node has finished")


def in_sight(folder: Path) -> bool:
    """Tell whether a folder is there, which another node may just have made."""
    end = time.monotonic() + SIGHT
    while True:
        os.listdir(folder.parent)  # has NFS look at the folder anew
        if folder.is_dir() or time.monotonic() > end:
            return folder.is_dir()
        time.sleep(0.2)


def _turn(store: Store, task: StageTask) -> FileLock:
    """Return a held lock of the stage.

    A node that was cut off is taken for lost, though its process may still write; a lock goes with its process.
    """
    locks = store.folder / "locks"
    locks.mkdir(exist_ok=True)
    lock = FileLock(locks / task.node.key)
    try:
        lock.acquire(timeout=TURN, poll_interval=0.5)
    except Timeout as error:
        raise MithridateError(
            f"an earlier attempt at '{task.node.label}' still runs, on a node that was taken for lost; end it there "
            "and run the same command again"
        ) from error
    return lock


def throttled(tell: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """Return a report of progress that is not made more often than the screen shows it; the last one always is."""
    last = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > PAUSE:
            last = time.monotonic()
            tell(done, total)

    return report
