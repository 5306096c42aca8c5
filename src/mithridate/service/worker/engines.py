"""Where the process of a job runs: on the worker's machine, or on a cluster."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mithridate.service.service_settings import ServiceSettings
from mithridate.service.worker import job_process
from mithridate.service.worker.job_process import JobProcess, environment, record_of
from mithridate.service.worker.ray_process import RayJobs, RayProcess

_NOT_THERE = ("PATH", "HOME", "LANG", "LC_", "PYTHONPATH", "VIRTUAL_ENV", "LD_", "HF_HOME", "CUDA_", "NVIDIA_")
"""Beginnings of variables of the worker's machine that say nothing on another one."""


class EngineProcess(Protocol):
    """A job's process, wherever it runs."""

    def wait(self, seconds: float) -> int | None:
        """Return the exit status; None where it still runs after these seconds."""

    def end(self, grace: float) -> None:
        """End it: asked first, killed after these seconds."""


def start(folder: Path, attempt: int, command: Sequence[str], settings: ServiceSettings) -> EngineProcess:
    """Start the process of a job.

    Args:
        folder: The job's folder, with its order.
        attempt: Number of the attempt.
        command: Program and arguments, to which the folder is added.
        settings: The service's.

    Raises:
        ServiceError: If the cluster does not take it.
    """
    if settings.engine.kind == "local":
        return JobProcess(folder, command, settings.process)
    # Once more, now that the order names this attempt: what arrives from here on ends by itself.
    end_earlier(folder, settings)
    told = environment(os.environ, folder, settings.process)
    there = {name: value for name, value in told.items() if not name.startswith(_NOT_THERE)}
    return RayProcess(folder, attempt, command, there, settings.engine)


def end_earlier(folder: Path, settings: ServiceSettings) -> None:
    """End what an earlier attempt of a job has left running.

    Raises:
        EngineAway: If it ran on a cluster that does not answer, so that nobody knows whether it has ended.
    """
    record = record_of(folder)
    found = json.loads(record.read_bytes()) if record.is_file() else {}
    if "submission" not in found or settings.engine.kind == "local":
        job_process.end_earlier(folder)
        return
    jobs = RayJobs(settings.engine)
    jobs.stop(found["submission"], settings.engine.patience)
    jobs.close()
    record.unlink(missing_ok=True)
