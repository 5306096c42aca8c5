"""Runs one claimed job to its end, or until it is another's to run."""

import logging
import threading
import time
from pathlib import Path

from sqlalchemy import Connection, select, update
from sqlalchemy.exc import SQLAlchemyError

from mithridate.errors import ServiceError
from mithridate.service.contract.object_ids import now
from mithridate.service.database.outages import fault_of, insist, is_away
from mithridate.service.database.tables import JOBS
from mithridate.service.jobs.job_events import tell
from mithridate.service.jobs.job_leases import Lease, beat, give_back, holds
from mithridate.service.jobs.transitions import move
from mithridate.service.policy_facts import policy_reads
from mithridate.service.service_parts import ServiceParts
from mithridate.service.service_settings import ProcessLimits
from mithridate.service.worker.confinement import available, exposed
from mithridate.service.worker.engines import end_earlier, start
from mithridate.service.worker.job_leftovers import drop_leftovers, has_ended
from mithridate.service.worker.job_order import (
    FAILURE,
    ORDER,
    OUTCOME,
    PROGRESS,
    STORAGE_FULL,
    STORAGE_SAID,
    TRAINING,
    VALIDATION,
    JobFailure,
    JobOrder,
    ProgressLine,
    read_outcome,
    write_told,
)
from mithridate.service.worker.job_process import readable
from mithridate.service.worker.lease_beats import beating
from mithridate.service.worker.left_files import drop_links, own_file
from mithridate.service.worker.metric_events import MetricEvents
from mithridate.service.worker.outcome_taken import take_failure, take_outcome

log = logging.getLogger(__name__)


class JobRun:
    """One attempt at a job.

    Args:
        parts: The service.
        lease: The right to run it.
        stop: Set when the worker shuts down.
        command: Program of the job's process.
    """

    def __init__(self, parts: ServiceParts, lease: Lease, stop: threading.Event, command: tuple[str, ...]) -> None:
        self._parts, self._lease, self._stop, self._command = parts, lease, stop, command
        self._folder = parts.settings.jobs_folder / lease.job
        self._metrics = MetricEvents(lease.job)
        self._read = 0  # bytes of the progress that were read
        self._held = time.monotonic()  # when the lease was last known to stand

    def run(self) -> None:
        """Run the job to its end, or until its lease has ended."""
        with beating(self._parts.database, self._lease, self._parts.settings.leases.beat):
            self._run()
            if insist(self._has_ended, self._stop, self._parts.settings.leases.poll):
                drop_leftovers(self._folder)

    def _has_ended(self) -> bool:
        with self._parts.database.read() as connection:
            return has_ended(connection, self._lease.job)

    def _run(self) -> None:
        leases = self._parts.settings.leases
        failure = self._prepared()
        if failure is not None:
            with self._parts.database.write() as connection:
                take_failure(self._parts, connection, self._lease, failure)
            return
        process = start(self._folder, self._lease.fence, self._command, self._parts.settings)
        try:
            while (status := process.wait(leases.poll)) is None:
                if not self._goes_on():
                    return
        finally:
            process.end(leases.grace)
        insist(self._follow, self._stop, leases.poll)
        insist(lambda: self._conclude(status), self._stop, leases.poll)

    def _goes_on(self) -> bool:
        """Tell how far the job is; return whether it is still ours to run.

        Raises:
            SQLAlchemyError: If the database is damaged, or was away for so long that the job may be another's by now.
        """
        leases = self._parts.settings.leases
        if self._stop.is_set():
            with self._parts.database.write() as connection:
                said = "The worker was shut down; another one goes on from the last checkpoint"
                give_back(connection, self._lease, leases.attempts, blamed=False, said=said)
            return False
        asked = time.monotonic()
        try:
            stands = self._follow() or self._stands()
        except SQLAlchemyError as error:
            # The job goes on meanwhile. Nobody takes it before half of the patience: a beat is never older than that.
            if not is_away(error) or asked - self._held > leases.patience / 2:
                raise
            log.warning("the database is away", extra={"job": self._lease.job, "fault": fault_of(error)})
            return True
        self._held = asked
        return stands

    def _stands(self) -> bool:
        with self._parts.database.read() as connection:
            return holds(connection, self._lease)

    def _prepared(self) -> JobFailure | None:
        """Lay out the job's folder; return why that cannot be done."""
        self._folder.mkdir(parents=True, exist_ok=True)
        end_earlier(self._folder, self._parts.settings)
        drop_links(self._folder)
        for name in (OUTCOME, FAILURE, PROGRESS):  # of an earlier attempt
            (self._folder / name).unlink(missing_ok=True)
        with self._parts.database.read() as connection:
            row = connection.execute(select(JOBS).where(JOBS.c.id == self._lease.job)).one()
            reads = policy_reads(connection)
        for param, target, name, sha256 in (
            ("training_file", TRAINING, row.training_file, row.training_sha256),
            ("validation_file", VALIDATION, row.validation_file, row.validation_sha256),
        ):
            if name is not None and (failure := self._fetched(param, name, sha256, self._folder / target)):
                return failure
        settings = self._parts.settings
        model = settings.offered.get(row.model)
        if model is None or not model.is_dir():
            return JobFailure(code="model_unavailable", message=f"model '{row.model}' is not there; ask the operator")
        confined = [*readable(model, settings.policy), *reads] if _confined(settings.process) else None
        if confined is not None and (found := exposed(settings.private, confined)):
            log.error("a job could read what is not its own", extra={"job": self._lease.job, "readable": found})
            said = "the service's folder lies where every job may read; ask the operator to move it"
            return JobFailure(code="sandbox_unavailable", message=said)
        kind = row.method["type"]
        chosen = row.method[kind]["hyperparameters"]
        order = JobOrder(
            model=str(model),
            policy=None if settings.policy is None else str(settings.policy.resolve()),
            epochs=None if chosen["n_epochs"] == "auto" else chosen["n_epochs"],
            rate=None if chosen["learning_rate_multiplier"] == "auto" else chosen["learning_rate_multiplier"],
            seed=row.seed,
            method=kind,
            beta=None if chosen.get("beta", "auto") == "auto" else chosen["beta"],
            validation=row.validation_file is not None,
            confined=confined,
            network=settings.process.network,
            attempt=self._lease.fence,
        )
        write_told(self._folder, ORDER, order)
        return None

    def _fetched(self, param: str, name: str, sha256: str, target: Path) -> JobFailure | None:
        """Copy a file into the job's folder; return why it cannot be used."""
        try:
            found = self._parts.blobs.copy_out(name, target)
        except FileNotFoundError:
            return JobFailure(code="file_not_found", message=f"file {name} was deleted; upload it again", param=param)
        if found != sha256:
            message = f"file {name} is not what was uploaded; upload it again, and tell the operator"
            return JobFailure(code="file_integrity", message=message, param=param)
        return None

    def _follow(self) -> bool:
        """Take over what the process has told since; return whether that was anything, and the lease stands."""
        progress = own_file(self._folder, PROGRESS)
        if progress is None:
            return False
        with progress as file:
            file.seek(self._read)
            told = file.read()
        whole = told[: told.rfind(b"\n") + 1]  # the last line may be half written
        if not whole:
            return False
        lines = [ProgressLine.model_validate_json(line) for line in whole.splitlines()]
        try:
            with self._parts.database.write() as connection:
                # Holds the job's row as well, so that the lease still stands when the lines are written.
                if not beat(connection, self._lease):
                    return False
                for line in lines:
                    self._told(connection, line)
        except SQLAlchemyError:
            self._metrics.forget()
            raise
        self._read += len(whole)  # only now: what could not be written is read again
        return True

    def _told(self, connection: Connection, line: ProgressLine) -> None:
        job, fence = self._lease
        if line.kind == "validated":
            move(connection, job, "queued", fence=fence, said=f"Files validated: {line.message}")
            move(connection, job, "running", fence=fence, started_at=now())
        elif line.kind == "metrics":
            for metrics in line.metrics:
                self._metrics.tell(connection, metrics)
        else:
            connection.execute(
                update(JOBS).where(JOBS.c.id == job).values(steps_done=line.done, steps_total=line.total)
            )
            if line.message:
                tell(connection, job, line.message, data={"done": line.done, "total": line.total})

    def _conclude(self, status: int) -> None:
        leases = self._parts.settings.leases
        try:
            found = read_outcome(self._folder)
        except ServiceError as error:
            found = JobFailure(code="internal_error", message=str(error).replace(str(self._folder), "the job"))
        if found is None and status == STORAGE_FULL:
            found = JobFailure(code="storage_full", message=STORAGE_SAID)
        if found is None:
            log.error("job process ended without a word", extra={"job": self._lease.job, "status": status})
            with self._parts.database.write() as connection:
                said = "The job's process ended without a word; it is started again"
                give_back(connection, self._lease, leases.attempts, blamed=True, said=said)
        elif isinstance(found, JobFailure):
            with self._parts.database.write() as connection:
                take_failure(self._parts, connection, self._lease, found)
        else:
            take_outcome(self._parts, self._lease, self._folder, found)


def _confined(limits: ProcessLimits) -> bool:
    return limits.sandbox == "required" or (limits.sandbox == "auto" and available())
