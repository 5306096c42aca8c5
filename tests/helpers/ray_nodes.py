"""A Ray cluster of this machine alone, whose nodes come and go."""

import os
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

STAGE = "do_stage"  # in the name of a process that does one


class LocalCluster:
    """A head on loopback that takes no stage, and nodes that do.

    Attributes:
        address: What runs connect to.
        url: Address of its dashboard, where it has one.
    """

    def __init__(self, dashboard: bool = False) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        from ray.cluster_utils import Cluster

        # Short, since the names of sockets in it are bounded; and not Ray's own, in which a user's cluster is noted.
        self._folder = tempfile.mkdtemp(prefix="ray-")
        # 127.0.0.1 would not do: Ray takes it for the machine's own address, on which this head does not listen.
        self._common = {"node_ip_address": "127.0.0.2", "object_store_memory": 80 << 20}
        head: dict[str, Any] = {**self._common, "num_cpus": 0, "include_dashboard": dashboard, "temp_dir": self._folder}
        if dashboard:
            head |= {"dashboard_host": "127.0.0.2", "dashboard_port": _free_port()}
        self._cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self.address: str = self._cluster.address
        self.url = f"http://127.0.0.2:{head.get('dashboard_port')}"
        self._nodes: list[Any] = []

    def add(self, cpus: int = 1, gpus: int = 0, environment: dict[str, str] | None = None) -> Any:
        node = self._cluster.add_node(**self._common, num_cpus=cpus, num_gpus=gpus, env_vars=environment)
        self._nodes.append(node)
        return node

    def kill(self, node: Any) -> None:
        """Have a node die as a machine does, without a word."""
        self._nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def clear(self) -> None:
        for node in list(self._nodes):
            self.kill(node)

    def close(self) -> None:
        self.clear()
        self._cluster.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.2", 0))
        port: int = found.getsockname()[1]
        return port


def stage_processes() -> list[psutil.Process]:
    """The processes of this machine that do a stage now."""
    return [one for one in psutil.process_iter(["cmdline"]) if STAGE in " ".join(one.info["cmdline"] or [])]


def none_left(seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while stage_processes() and time.monotonic() < end:
        time.sleep(0.1)
    return not stage_processes()


def broken_package(folder: Path) -> str:
    """A folder whose package of our name cannot be imported, for the path of a node that lacks it."""
    (folder / "mithridate").mkdir()
    (folder / "mithridate/__init__.py").write_text("raise ImportError('none here')\n")
    return str(folder)
