"""A PostgreSQL server of our own: made in a new folder, started, killed, started again."""

import os
import random
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOBODY = 65534


class Absent(Exception):
    """PostgreSQL cannot be run on this machine."""


class OwnPostgres:
    """A server.

    Attributes:
        url: Its address, to which the name of a database is added.
        programs: Folder of PostgreSQL's programs.

    Args:
        folder: An empty folder.

    Raises:
        Absent: Saying what is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.programs = _programs()
        self._folder, self._user = folder, _user(folder)
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self._port = one.getsockname()[1]
        self.url = f"postgresql://service@127.0.0.1:{self._port}/"
        self._run("initdb", "-U", "service", "--auth=trust", "--no-sync", "--encoding=UTF8")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        # Nothing is synced: a killed server loses nothing by that, only a machine without power does.
        options = f"-p {self._port} -h 127.0.0.1 -k {self._folder} -c fsync=off"
        self._run("pg_ctl", "-w", "-o", options, "-l", str(self._folder / "log"), "start")

    def kill(self) -> None:
        """End the server at once, whatever it is doing."""
        self._run("pg_ctl", "-m", "immediate", "stop")

    def stop(self) -> None:
        """End the server in order, which leaves no memory behind."""
        self._run("pg_ctl", "-m", "fast", "stop")

    def create(self, name: str) -> str:
        """Make a database and return its address."""
        command = [str(self.programs / "psql"), f"{self.url}postgres", "-c", f"create database {name}"]
        subprocess.run(command, check=True, capture_output=True)
        return self.url + name

    def _run(self, program: str, *arguments: str) -> None:
        environment = {**os.environ, "LC_ALL": "C", "HOME": str(self._folder)}
        command = [*self._user, str(self.programs / program), "-D", str(self._folder / "data"), *arguments]
        subprocess.run(command, cwd=self._folder, env=environment, check=True, capture_output=True, timeout=60)


def _programs() -> Path:
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    named = shutil.which("initdb")
    if not installed and named is None:
        raise Absent("PostgreSQL's programs are not installed")
    return installed[0] if installed else Path(str(named)).parent


def _user(folder: Path) -> list[str]:
    """Return the beginning of commands that run as somebody else than root, as whom it refuses to run."""
    if os.geteuid() != 0:
        return []
    if not shutil.which("setpriv"):
        raise Absent("PostgreSQL does not run as root, and there is no setpriv to run it as another")
    os.chown(folder, _NOBODY, _NOBODY)
    return ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]


@contextmanager
def own_postgres() -> Iterator[OwnPostgres]:
    """Run a server in a new folder, in memory where there is one.

    Raises:
        Absent: If it cannot be run on this machine.
    """
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    try:
        server = OwnPostgres(folder)
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Outages:
    """Kills a server and starts it again, over and over; use it as a context.

    Attributes:
        count: Outages so far.

    Args:
        server: The server.
        draw: Where the times are drawn.
        every: Least and greatest time in seconds that the server runs.
        away: Least and greatest time in seconds that it is away.
    """

    def __init__(
        self, server: OwnPostgres, draw: random.Random, every: tuple[float, float], away: tuple[float, float]
    ) -> None:
        self.count = 0
        self._server, self._draw, self._every, self._away = server, draw, every, away
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._disturb)

    def _disturb(self) -> None:
        while not self._stop.wait(self._draw.uniform(*self._every)):
            self._server.kill()
            self.count += 1
            self._stop.wait(self._draw.uniform(*self._away))
            self._server.start()

    def __enter__(self) -> "Outages":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
