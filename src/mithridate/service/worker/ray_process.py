"""Runs the process of a job on a Ray cluster, through the REST interface of Ray Jobs.

Ray runs what is submitted once, and forgets it with the cluster; attempts are ours. At most one of a job is alive: an
earlier one is known to have ended before the next is submitted, and a submission that arrives late finds in the job's
order that it is another's, and ends at once.
"""

import logging
import os
import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from mithridate.errors import ServiceError
from mithridate.files import write_json
from mithridate.service.service_settings import EngineSettings
from mithridate.service.worker.job_process import LOG, make_own_folders, record_of
from mithridate.service.worker.left_files import own_log

log = logging.getLogger(__name__)

_ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}
_PAUSE = 1.0  # seconds between two questions
_NO_NODE = "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"  # what Ray calls it when a job has waited for long (15 minutes)
_LOG_BYTES = 1 << 20
_TOKEN = "RAY_AUTH_TOKEN"  # the name of the variable, as Ray's own clients read it


class EngineAway(ServiceError):
    """The cluster has not answered for its whole patience, or has had no room for a job."""


class RayProcess:
    """A job's process on a cluster.

    Args:
        folder: The job's folder, under the same path here and on the cluster.
        attempt: Number of the attempt, which no other attempt of the job has.
        command: Program and arguments, whose interpreter is the cluster's.
        environment: Environment variables of the process.
        settings: The cluster.

    Raises:
        EngineAway: If it does not answer.
        ServiceError: If it refuses the job.
    """

    def __init__(
        self,
        folder: Path,
        attempt: int,
        command: Sequence[str],
        environment: dict[str, str],
        settings: EngineSettings,
    ) -> None:
        self._record, self._patience = record_of(folder), settings.patience
        self._jobs = RayJobs(settings)
        self._folder, self._name = folder, f"{folder.name}-{attempt}"
        make_own_folders(folder)
        # Before it is submitted: whoever takes the job over must know what to stop.
        write_json(self._record, {"submission": self._name})
        program = shlex.join([settings.python, *command[1:], str(folder), str(attempt)])
        # In its folder, as here: Python takes code from where it starts. No shell stays between it and who ends it.
        self._jobs.submit(self._name, f"cd {shlex.quote(str(folder))} && exec {program}", environment)
        self._answered = time.monotonic()

    def wait(self, seconds: float) -> int | None:
        """Return the exit status; None where it still runs after these seconds.

        Raises:
            EngineAway: If the cluster has not answered for long, or has had no node for the job.
        """
        time.sleep(seconds)
        asked = time.monotonic()
        try:
            found = self._jobs.found(self._name)
        except httpx.HTTPError as error:
            if asked - self._answered > self._patience:
                raise EngineAway(f"the Ray cluster does not answer: {error}") from error
            return None
        self._answered = asked
        if found is not None and found.get("status") not in _ENDED:
            return None
        if found is not None and found.get("error_type") == _NO_NODE:
            raise EngineAway(f"the Ray cluster has had no node for the job: {found.get('message')}")
        self._keep_log()
        # A cluster that was started anew knows nothing of it: the process is gone with the old one.
        status = -1 if found is None else found.get("driver_exit_code")
        return int(status) if status is not None else int(found is None or found.get("status") != "SUCCEEDED")

    def _keep_log(self) -> None:
        """Put what the process has printed into the job's folder, where that of a local one is."""
        try:
            said = self._jobs.log(self._name)
        except (httpx.HTTPError, ValueError) as error:
            said = f"what it printed is not known: {error}"
        # Without room for it the job's outcome still counts.
        with suppress(OSError), own_log(self._folder / LOG) as log:
            log.write(said.encode()[-_LOG_BYTES:])

    def end(self, grace: float) -> None:
        """End the process; where the cluster does not answer, whoever takes the job over does."""
        try:
            self._jobs.stop(self._name, max(grace, self._patience))
        except EngineAway:
            log.exception("a process on the cluster could not be ended", extra={"submission": self._name})
            return
        self._record.unlink(missing_ok=True)
        self._jobs.close()


class RayJobs:
    """The jobs of a cluster.

    Args:
        settings: Where it is, and how long to wait for it.
    """

    def __init__(self, settings: EngineSettings) -> None:
        token = os.environ.get(_TOKEN)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._patience = settings.patience
        self._reserved = {"entrypoint_num_cpus": settings.cpus, "entrypoint_num_gpus": settings.gpus}
        self._http = httpx.Client(base_url=f"{settings.address}/api/jobs", headers=headers, timeout=10)

    def submit(self, name: str, entrypoint: str, environment: dict[str, str]) -> None:
        """Submit a job under a name of ours, once, whatever becomes of the answers.

        Raises:
            EngineAway: If the cluster does not answer.
            ServiceError: If it refuses the job.
        """
        body = {
            "submission_id": name,
            "entrypoint": entrypoint,
            "runtime_env": {"env_vars": environment},
            **self._reserved,
        }
        end, said = time.monotonic() + self._patience, ""
        while True:
            try:
                answer = self._http.post("/", json=body)
                if answer.is_success:
                    return
                said = f"{answer.status_code} {answer.text[:200]}"
                # It may have been taken before an answer was lost; a second one of the name is refused as an error.
                if self.found(name) is not None:
                    return
                if answer.status_code < 500 and answer.status_code not in (404, 408, 409, 429):
                    raise ServiceError(f"the Ray cluster refuses the job: {said}")
            except httpx.HTTPError as error:
                said = str(error)
            if time.monotonic() > end:
                raise EngineAway(f"the Ray cluster does not take the job: {said}")
            time.sleep(min(_PAUSE, self._patience / 10))

    def found(self, name: str) -> dict[str, Any] | None:
        """Return what the cluster knows of a job; None where it knows none of the name.

        Raises:
            httpx.HTTPError: If it does not answer in order.
        """
        answer = self._http.get(f"/{name}")
        if answer.status_code == 404:
            return None
        answer.raise_for_status()
        told: Any = answer.json()
        if not isinstance(told, dict) or "status" not in told:
            raise httpx.DecodingError("the answer is none of Ray Jobs")
        return told

    def log(self, name: str) -> str:
        """Return what a job has printed; nothing where the cluster knows none of the name.

        Raises:
            httpx.HTTPError: If it does not answer in order.
        """
        answer = self._http.get(f"/{name}/logs")
        if answer.status_code == 404:
            return ""
        answer.raise_for_status()
        told: Any = answer.json()
        return str(told.get("logs", "")) if isinstance(told, dict) else ""

    def stop(self, name: str, seconds: float) -> None:
        """Stop a job, and wait until it is known to have ended.

        Raises:
            EngineAway: If that is not known in time.
        """
        end, said = time.monotonic() + seconds, "it goes on"
        while True:
            try:
                found = self.found(name)
                if found is None or found["status"] in _ENDED:
                    return
                self._http.post(f"/{name}/stop").raise_for_status()
            except (httpx.HTTPError, ValueError) as error:
                said = str(error)
            if time.monotonic() > end:
                raise EngineAway(f"job {name} on the Ray cluster could not be stopped: {said}")
            time.sleep(min(_PAUSE, self._patience / 10))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
