"""The process of a job, and everything it starts: one group, which is ended as a whole."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from mithridate.files import write_json
from mithridate.service.service_settings import ProcessLimits
from mithridate.service.worker.confinement import code_places
from mithridate.service.worker.left_files import own_log

LOG = "process.log"
COMMAND = (sys.executable, "-m", "mithridate.service.worker.run_job")
"""Runs the job in the folder that follows it."""

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
_KEPT_BEGINNINGS = ("MITHRIDATE_", "HF_HOME", "HF_HUB_CACHE", "CUDA_", "NVIDIA_", "COVERAGE_")
_FOLDERS = ("TMPDIR", "HF_DATASETS_CACHE", "HF_MODULES_CACHE", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR")
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
_SET = {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONDONTWRITEBYTECODE": "1"}


class JobProcess:
    """A job's process.

    Args:
        folder: The job's folder.
        command: Program and arguments, to which the folder is added.
        limits: What it may use.
    """

    def __init__(self, folder: Path, command: Sequence[str], limits: ProcessLimits) -> None:
        self._folder = folder
        make_own_folders(folder)
        with own_log(folder / LOG) as log:
            self._process = subprocess.Popen(
                [*command, str(folder)],
                cwd=folder,
                env=environment(os.environ, folder, limits),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a group of its own, so that all of it can be ended
            )
        try:
            _limit(self._process.pid, limits)
            write_json(record_of(folder), _record(self._process.pid))
        except BaseException:
            self.end(0)  # without its record no later attempt would find it
            raise

    def wait(self, seconds: float) -> int | None:
        """Return the exit status; None where it still runs after these seconds."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def end(self, grace: float) -> None:
        """End the whole group: asked first, killed after these seconds."""
        _signal(self._process.pid, signal.SIGTERM)
        if self.wait(grace) is None:
            _signal(self._process.pid, signal.SIGKILL)
            self._process.wait()
        _signal(self._process.pid, signal.SIGKILL)  # whoever of the group has outlived its leader
        record_of(self._folder).unlink(missing_ok=True)


def make_own_folders(folder: Path) -> None:
    """Make the folders that a job's `environment` names."""
    for name in _FOLDERS:
        (folder / "tmp" / name.lower()).mkdir(parents=True, exist_ok=True)


def environment(own: Mapping[str, str], folder: Path, limits: ProcessLimits) -> dict[str, str]:
    """Return what a job's process may know of ours: no key of the service, no address of its database."""
    kept = {name: value for name, value in own.items() if name in _KEPT or name.startswith(_KEPT_BEGINNINGS)}
    kept |= {name: own[name] for name in limits.environment if name in own}
    kept.setdefault("HF_HOME", str(Path.home() / ".cache" / "huggingface"))
    # What libraries keep for themselves stays in the job's folder; nowhere else may it write.
    own_folders = {name: str(folder / "tmp" / name.lower()) for name in _FOLDERS}
    return kept | own_folders | _SET | ({} if limits.network else _OFFLINE)


def readable(model: Path, policy: Path | None) -> list[str]:
    """Return what a job's process reads: its model, its policy file, the programs and what they bring along."""
    named = [os.environ.get(name) for name in ("MITHRIDATE_DATA", "MITHRIDATE_CACHE", "HF_HOME", "HF_HUB_CACHE")]
    # The file alone: the service's own folder may lie beside it. Files that the policy names are allowed one by one.
    own = [str(model), *([] if policy is None else [str(policy)])]
    caches = [str(Path.home() / ".cache" / name) for name in ("huggingface", "mithridate")]
    return sorted({str(Path(path).resolve()) for path in (*own, *code_places(), *caches, *named) if path})


def record_of(folder: Path) -> Path:
    """Return the file that says which process a job has.

    Beside the job's folder: what stands in it is killed, and a job could name any process of the machine there.
    """
    return folder.with_name(f"{folder.name}.process.json")


def end_earlier(folder: Path) -> None:
    """Kill what an earlier attempt of a job has left running on this machine."""
    record = record_of(folder)
    if not record.is_file():
        return
    found = json.loads(record.read_bytes())
    # A process id is given again in time; together with the time of its start it is one process alone.
    if found.get("host") == socket.gethostname() and _record(found["pid"]) == found:
        _signal(found["pid"], signal.SIGKILL)
        psutil.wait_procs(_processes(found["pid"]), timeout=10)
    record.unlink(missing_ok=True)


def _processes(pid: int) -> list[psutil.Process]:
    try:
        return [psutil.Process(pid)]
    except psutil.NoSuchProcess:
        return []


def _record(pid: int) -> dict[str, object]:
    started = [process.create_time() for process in _processes(pid)]
    return {"host": socket.gethostname(), "pid": pid, "started": started[0] if started else None}


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # gone; on macOS a zombie answers with the second
        os.killpg(group, number)


def _limit(pid: int, limits: ProcessLimits) -> None:
    """Hold a process to its limits, where the system can do so from outside."""
    if not hasattr(resource, "prlimit"):
        return
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: limits.open_files,
    }
    if limits.memory_bytes is not None:
        wanted[resource.RLIMIT_DATA] = limits.memory_bytes
    for what, most in wanted.items():
        try:
            _, hard = resource.prlimit(pid, what)
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.prlimit(pid, what, (most, most))
        except ProcessLookupError:  # it has ended already
            return
