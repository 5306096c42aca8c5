"""Servers and workers in processes of their own, for the benchmarks of the service.

    python -m benchmarks.service_processes serve --folder FOLDER --port 8000
    python -m benchmarks.service_processes work --folder FOLDER --seconds 2

A worker runs a stub in place of the pipeline, which takes the seconds it is told, or the pipeline with ``--real``.
"""

import json
import signal
import socket
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import uvicorn
from fastapi import FastAPI

from mithridate.service.keys.api_keys import create_key
from mithridate.service.policy_facts import POLICY, PolicyFacts, report
from mithridate.service.routes.service_app import make_app
from mithridate.service.service_parts import ServiceParts
from mithridate.service.service_settings import ServiceSettings
from mithridate.service.starting import open_or_make
from mithridate.service.worker.job_process import COMMAND
from mithridate.service.worker.worker_loop import JobWorker

STUB = (sys.executable, "-I", "-S", str(Path(__file__).with_name("service_stub.py")))
ROW = b'{"messages": [{"role": "user", "content": "%s"}, {"role": "assistant", "content": "b"}]}\n' % (b"a" * 900)
_SETTINGS = "settings.json"


def opened(folder: Path, **given: Any) -> tuple[ServiceParts, str]:
    """Make a service in a folder; return its parts and a new key.

    Args:
        folder: The folder.
        given: Settings that are not for a benchmark's usual ones.
    """
    uses = {"requests_per_minute": 10**9, "active_jobs": 10**6}
    tree = {"folder": str(folder), "uses": uses, "leases": {"poll": 0.05}, **given}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _SETTINGS).write_text(json.dumps(tree), encoding="utf-8")
    parts = open_or_make(settings_of(folder))
    (folder / "aligned").mkdir(exist_ok=True)
    facts = PolicyFacts(
        name="none", sha256="", seed=0, epochs=1, most_epochs=1, learning_rate=1, highest_learning_rate=1, batch_size=1
    )
    with parts.database.write() as connection:
        report(connection, POLICY, facts=facts.model_dump())
        return parts, create_key(connection, "default", "load", "write").secret


def settings_of(folder: Path) -> ServiceSettings:
    """Return the settings of a service that was made by `opened`."""
    return ServiceSettings.model_validate_json((folder / _SETTINGS).read_bytes())


def command(what: str, folder: Path, *more: str) -> list[str]:
    """Return the command of a process."""
    return [sys.executable, "-m", "benchmarks.service_processes", what, "--folder", str(folder), *more]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def until_it_answers(url: str) -> None:
    """Wait for a server."""
    while True:
        try:
            httpx.get(f"{url}/healthz")
            return
        except httpx.TransportError:
            time.sleep(0.05)


@contextmanager
def serving(what: str, folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Run a server in a process of its own; return its address and the process."""
    port = free_port()
    process = subprocess.Popen(command(what, folder, "--port", str(port)))
    try:
        url = f"http://127.0.0.1:{port}"
        until_it_answers(url)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def serve(folder: Path, port: int) -> None:
    """Serve a folder."""
    uvicorn.run(make_app(ServiceParts.open(settings_of(folder))), port=port, log_config=None, access_log=False)


def bare(port: int) -> None:
    """Serve a route that does nothing."""
    app = FastAPI()
    app.get("/bare")(lambda: {"status": "ok"})
    app.get("/healthz")(lambda: {"status": "ok"})
    uvicorn.run(app, port=port, log_config=None, access_log=False)


def work(folder: Path, program: tuple[str, ...], until_idle: bool) -> None:
    """Run jobs."""
    worker = JobWorker(ServiceParts.open(settings_of(folder)), program)
    signal.signal(signal.SIGTERM, lambda *_: worker.stop.set())
    worker.work(until_idle=until_idle)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one process."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("serve", "bare", "work"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seconds", default="0", help="that the stub takes")
    parser.add_argument("--real", action="store_true", help="run the pipeline")
    parser.add_argument("--until-idle", action="store_true", help="end when no job waits")
    options = parser.parse_args(arguments)
    if options.what == "serve":
        serve(options.folder, options.port)
    elif options.what == "bare":
        bare(options.port)
    else:
        work(options.folder, COMMAND if options.real else (*STUB, options.seconds), options.until_idle)


if __name__ == "__main__":
    main()
