"""A service on SQLite with a pipeline that takes no model, and OpenAI's own clients in front of it."""

import asyncio
import json
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
import uvicorn

from mithridate.service.database.migrating import migrate
from mithridate.service.database.opened import Database
from mithridate.service.keys.api_keys import create_key
from mithridate.service.policy_facts import POLICY, PolicyFacts, report
from mithridate.service.routes.service_app import make_app
from mithridate.service.service_parts import ServiceParts
from mithridate.service.service_settings import ServiceSettings
from mithridate.service.worker.worker_loop import JobWorker
from tests.service.processes import FAKE, QUICK

FACTS = PolicyFacts(
    name="tiny", sha256="0" * 64, seed=7, epochs=3, most_epochs=10, learning_rate=1e-3, highest_learning_rate=2e-3,
    batch_size=16,
)  # fmt: skip


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder in memory where there is one: the service waits for the disk at every step."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def make_parts(folder: Path, **given: Any) -> ServiceParts:
    (folder / "aligned").mkdir(parents=True, exist_ok=True)
    tree = {"folder": folder, "leases": QUICK, **given}
    settings = ServiceSettings.model_validate(tree)
    database = Database(settings.database_url)
    migrate(database)
    database.close()
    parts = ServiceParts.open(settings)
    with parts.database.write() as connection:
        report(connection, POLICY, facts=FACTS.model_dump())
    return parts


def new_key(parts: ServiceParts, project: str = "default", role: str = "write") -> str:
    with parts.database.write() as connection:
        return create_key(connection, project, "test", role).secret


_CONTEXT = ssl.create_default_context()  # made once: each takes longer than most of these tests


class _PromptServer(uvicorn.Server):
    """Ends as uvicorn's does, without the two tenths of a second that it waits for nothing in particular."""

    async def main_loop(self) -> None:
        ticks = 0
        while not await self.on_tick(ticks):
            await asyncio.sleep(0.01)
            ticks += 1

    async def shutdown(self, sockets: Any = None) -> None:
        for listening in self.servers:
            listening.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await asyncio.sleep(0.01)  # until those that are idle are closed
        await self._wait_tasks_to_complete()
        await self.lifespan.shutdown()


class Server:
    """A real server in a thread."""

    def __init__(self, parts: ServiceParts) -> None:
        self.parts, self.app = parts, make_app(parts)
        self.server = _PromptServer(uvicorn.Config(self.app, port=0, log_config=None, access_log=False))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"

    def client(self, key: str, **given: Any) -> openai.OpenAI:
        transport = httpx2.Client(verify=_CONTEXT, base_url=f"{self.url}/v1", timeout=30)
        given = {"max_retries": 0, "http_client": transport, **given}
        return openai.OpenAI(api_key=key, base_url=f"{self.url}/v1", **given)

    def http(self, key: str | None = None) -> httpx.Client:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        # Without the certificates of the system, which every client would load for a server that has none.
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, verify=False)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)


@pytest.fixture
def parts(tmp_path: Path) -> ServiceParts:
    return make_parts(tmp_path / "service")


@pytest.fixture
def server(parts: ServiceParts) -> Iterator[Server]:
    made = Server(parts)
    yield made
    made.close()


@pytest.fixture
def key(parts: ServiceParts) -> str:
    return new_key(parts)


@pytest.fixture
def client(server: Server, key: str) -> openai.OpenAI:
    return server.client(key)


def upload(*words: str, rows: int = 12) -> bytes:
    """A JSONL upload whose first row tells the fake pipeline what to do."""
    asked = [" ".join(("please", *words)), *(f"question {number}" for number in range(1, rows))]
    lines = [
        json.dumps({"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "answer"}]})
        for text in asked
    ]
    return ("\n".join(lines) + "\n").encode()


def work(parts: ServiceParts) -> int:
    """Run jobs until none waits."""
    return JobWorker(parts, FAKE).work(until_idle=True)


@pytest.fixture
def worker(parts: ServiceParts) -> Iterator[JobWorker]:
    made = JobWorker(parts, FAKE)
    thread = threading.Thread(target=made.work, daemon=True)
    thread.start()
    yield made
    made.stop.set()
    thread.join(10)


def until(condition: Callable[[], Any], seconds: float = 15) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")
