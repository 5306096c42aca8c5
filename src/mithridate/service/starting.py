"""Starts and ends the processes of a service: the server, and workers beside it."""

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import uvicorn
from sqlalchemy import func, select

from mithridate.errors import UsageError
from mithridate.service.audit_log import KEY_FILE
from mithridate.service.database.migrating import migrate, revision_of
from mithridate.service.database.opened import Database
from mithridate.service.database.outages import refusing_damage
from mithridate.service.database.tables import KEYS
from mithridate.service.keys.api_keys import create_key
from mithridate.service.routes.service_app import make_app
from mithridate.service.service_log import log_as_json
from mithridate.service.service_parts import ServiceParts
from mithridate.service.service_settings import ServiceSettings
from mithridate.service.worker.policy_preparation import prepare
from mithridate.service.worker.worker_loop import JobWorker

FIRST_KEY = "first-key"
"""File of the key that the first start makes; readable by its owner alone."""

log = logging.getLogger(__name__)


def open_or_make(settings: ServiceSettings) -> ServiceParts:
    """Open the service's parts; a database without any table gets them.

    Raises:
        ServiceError: If the database is of another version.
    """
    settings.folder.mkdir(parents=True, exist_ok=True)
    database = Database(settings.database_url)
    if revision_of(database) is None:
        migrate(database)
    database.close()
    parts = ServiceParts.open(settings)
    with parts.database.write() as connection:
        if connection.execute(select(func.count()).select_from(KEYS)).scalar_one() == 0:
            made = create_key(connection, "default", "first key", "admin")
            parts.audit.add(connection, "operator", "key.create", made.id, role="admin")
            path = settings.folder / FIRST_KEY
            path.unlink(missing_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(made.secret + "\n")
    return parts


def open_made(settings: ServiceSettings) -> ServiceParts:
    """Open the parts of a service that was started before.

    Raises:
        UsageError: If there is none in the folder.
        ServiceError: If the database is of another version.
    """
    require_made(settings)
    return ServiceParts.open(settings)


def require_made(settings: ServiceSettings) -> None:
    """Refuse a folder in which no service was ever started, as one with a typing error in its name.

    Raises:
        UsageError: If the folder holds no service.
    """
    if not (settings.folder / KEY_FILE).is_file():
        raise UsageError(
            f"{settings.folder} holds no service; give its folder with --folder or --settings, or make one with "
            "mithridate service start"
        )


def serve(settings: ServiceSettings, settings_file: Path | None) -> None:
    """Run the server and its workers until the process is asked to end.

    Args:
        settings: The settings.
        settings_file: Their file, from which workers read them anew.
    """
    log_as_json()
    with refusing_damage():
        parts = open_or_make(settings)
    key = settings.folder / FIRST_KEY
    if key.is_file():
        print(f"API key: {key}", flush=True)
    print("preparing the policy, its judges and its model …", flush=True)
    with refusing_damage():
        fault = prepare(parts)
    if fault is not None:
        # It starts all the same: what is finished can be read, and /readyz tells what is wrong.
        print(f"mithridate: no jobs are taken: {fault}", file=sys.stderr, flush=True)
    workers = [_worker(settings, settings_file) for _ in range(settings.workers)]
    try:
        print(f"listening on http://{settings.host}:{settings.port}/v1", flush=True)
        # Uvicorn ends on SIGTERM and SIGINT: it takes no new connections and finishes the requests it has.
        uvicorn.run(
            make_app(parts),
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=30,
            h11_max_incomplete_event_size=64 << 10,
        )
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()
        parts.database.close()


def _worker(settings: ServiceSettings, settings_file: Path | None) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", "from mithridate.cli.main import main; main()", "service", "worker"]
    if settings_file is not None:
        command += ["--settings", str(settings_file)]
    command += ["--folder", str(settings.folder)]
    return subprocess.Popen(command)


def run_worker(settings: ServiceSettings) -> None:
    """Run one worker until the process is asked to end; its job is then another's to go on with."""
    worker = JobWorker(open_made(settings))
    log_as_json()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop.set())
    parent = os.getppid()
    threading.Thread(target=_stop_with, args=(worker, parent), daemon=True).start()
    worker.work()


def _stop_with(worker: JobWorker, parent: int) -> None:
    """Stop a worker whose server was killed, so that none is left that nobody knows of."""
    while not worker.stop.wait(1):
        if os.getppid() != parent:
            worker.stop.set()
