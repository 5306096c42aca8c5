"""The connection to a Ray cluster: which of its nodes take stages, and whether each of them can."""

import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mithridate.errors import UsageError
from mithridate.experiment.manifest import code_versions
from mithridate.experiment.ray_task import RunPlace
from mithridate.experiment.store import Store

CARRIED = ("MITHRIDATE_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "CUBLAS_")
"""Beginnings of the environment variables that a stage reads, and that are set on every node as on the run's."""
SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD")
"""Endings of the variables that stay: Ray encrypts nothing by default."""
HERE = ("MITHRIDATE_CACHE", "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE")
"""Folders of one machine, which another may have elsewhere."""
CHECKED_IN = 300.0
"""Seconds that the nodes have to say that they can take stages; a first import from a network disk is slow."""


class StageNeeds(NamedTuple):
    """What a stage reserves on a node.

    Attributes:
        cpus: CPUs.
        gpus: GPUs; 0 in a cluster without any.
    """

    cpus: int
    gpus: int

    def fit(self, node: dict[str, Any]) -> int:
        """Return how many stages a node, as Ray describes it, takes at the same time."""
        has = node["Resources"]
        wanted = [(has.get("CPU", 0), self.cpus), (has.get("GPU", 0), self.gpus)]
        return min(int(there // one) for there, one in wanted if one)

    def told(self) -> str:
        """Return them in words."""
        return f"{self.cpus} CPUs" + (f" and {self.gpus} GPUs" if self.gpus else "")


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster for a block; a connection that this process already has is used and kept.

    Args:
        address: Its address; None for what ``RAY_ADDRESS`` names, or a cluster that runs on this machine.

    Raises:
        UsageError: If Ray is not installed, or there is no such cluster.
    """
    # Of 46 s each; Ray reads it as it is imported.
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "the engine ray needs Ray, which is not installed; install the extra ray, or: pip install 'ray[default]'"
        ) from error
    if ray.is_initialized():
        if address is not None:
            raise UsageError(
                "this process is connected to a Ray cluster already; leave the address out to use that one"
            )
        yield
        return
    ending = signal.getsignal(signal.SIGTERM)  # Ray puts one of its own there, and leaves it
    named = address or os.environ.get("RAY_ADDRESS") or "auto"
    try:
        _answers(named)
        # What stages print belongs into Ray's own logs, or it would stand between the lines of progress.
        ray.init(address=named, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        which = "on this machine" if named == "auto" else f"at {named}"
        said = str(error).strip().splitlines()[0]
        raise UsageError(
            f"no Ray cluster can be used {which} ({said}); start one with: ray start --head, or name one with "
            "--ray-address HOST:6379"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ending)


def _answers(address: str) -> None:
    """Ask an address whether somebody is there, as Ray itself asks a wrong one for many minutes.

    Raises:
        UsageError: If it is not one of a cluster.
        OSError: If nobody answers.
    """
    import ray

    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdecimal():
        raise UsageError(
            f"the Ray address {address} must be HOST:PORT, that of the cluster's head; its port is often 6379"
        )
    if host in ("localhost", "127.0.0.1"):
        host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # as Ray takes it
    socket.create_connection((host, int(port)), timeout=10).close()


def alive_nodes() -> list[dict[str, Any]]:
    """Return the nodes of the cluster, as Ray describes them."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def needs_of(threads: int, launch: int) -> StageNeeds:
    """Return what a stage reserves in this cluster.

    Args:
        threads: CPU threads of each process.
        launch: Processes that share it.

    Raises:
        UsageError: If no node can take a stage.
    """
    nodes = alive_nodes()
    gpus = any(node["Resources"].get("GPU") for node in nodes)
    needs = StageNeeds(threads * launch, launch if gpus else 0)
    if not any(map(needs.fit, nodes)):
        raise _no_node(needs)
    return needs


def _no_node(needs: StageNeeds) -> UsageError:
    has = [f"{n['Resources'].get('CPU', 0):g} CPUs, {n['Resources'].get('GPU', 0):g} GPUs" for n in alive_nodes()]
    return UsageError(
        f"no node of the Ray cluster can take a stage, which needs {needs.told()} (the recipe's threads × --launch); "
        f"its nodes have: {'; '.join(has)}"
    )


@contextmanager
def checked_place(store: Store, threads: int, needs: StageNeeds) -> Iterator[RunPlace]:
    """Return where the run stands, once every node that takes stages has shown that it can.

    Args:
        store: Where results go.
        threads: CPU threads of each process.
        needs: What a stage reserves.

    Raises:
        UsageError: Naming the first node that cannot, and why.
    """
    token = secrets.token_hex(8)
    mark = store.folder / f".run-{token}"
    for stale in store.folder.glob(".run-*"):  # of a run that was killed: the store is locked, and this run's alone
        stale.unlink(missing_ok=True)
    mark.write_text(token, encoding="utf-8")
    carried = _carried() | {"OMP_NUM_THREADS": str(threads)}
    place = RunPlace(str(store.folder), mark.name, token, os.getcwd(), carried, code_versions(), needs.gpus)
    try:
        if not _check_nodes([node for node in alive_nodes() if needs.fit(node)], place):
            raise _no_node(needs)
        yield place
    finally:
        for path in store.folder.glob(f"{mark.name}*"):
            path.unlink(missing_ok=True)


def _carried() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(CARRIED) and name not in HERE and not name.endswith(SECRET)
    }


def _check_nodes(nodes: list[dict[str, Any]], place: RunPlace) -> int:
    """Return how many of the nodes can take stages; those that have left the cluster meanwhile cannot."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def look(told: tuple[Any, ...], reply: str) -> str | None:
        # Inside another function, so that it is sent as code: a node without this package must be able to say so.
        import os

        os.environ |= told[4]  # before anything that reads them is imported
        try:
            from mithridate.errors import UsageError
            from mithridate.experiment.ray_task import RunPlace, check_node, enter_place
        except ImportError as error:
            return f"mithridate cannot be imported there ({error}); install the same versions on every node"
        here = RunPlace(*told)
        enter_place(here)
        try:
            check_node(here, reply)
        except UsageError as error:
            return str(error)
        return None

    # With GPUs a process for this alone: it has none, and torch would not look for any a second time.
    task = ray.remote(num_cpus=0, max_retries=0, max_calls=1 if place.gpus else 0)(look)
    replies = {node["NodeID"]: f"{place.mark}-{node['NodeID'][:16]}" for node in nodes}
    asked = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            tuple(place), replies[node["NodeID"]]
        )
        for node in nodes
    ]
    able = 0
    for node, answer in zip(nodes, asked, strict=True):
        fault = _answer(answer)
        written = Path(place.store, replies[node["NodeID"]])
        if fault is not None and node["NodeID"] not in {one["NodeID"] for one in alive_nodes()}:
            continue
        if fault is None and not written.is_file():
            fault = f"what it writes into {place.store} is not seen here; give --out a folder that all nodes share"
        if fault is not None:
            raise UsageError(f"node {node['NodeManagerAddress']} of the Ray cluster cannot take stages: {fault}")
        able += 1
    return able


def _answer(answer: Any) -> str | None:
    import ray

    try:
        fault: str | None = ray.get(answer, timeout=CHECKED_IN)
    except ray.exceptions.GetTimeoutError:
        return f"it has not answered for {CHECKED_IN:.0f} s"
    except ray.exceptions.RayTaskError as error:
        return f"the check failed there ({error.cause!r})"
    except ray.exceptions.RayError as error:
        return f"it was lost as it was asked ({str(error).splitlines()[0]})"
    return fault
