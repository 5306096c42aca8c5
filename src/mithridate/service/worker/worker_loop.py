"""A worker: claims one job after the other, runs each in a process of its own, and takes over those of lost workers."""

import logging
import os
import secrets
import socket
import threading

from sqlalchemy.exc import SQLAlchemyError

from mithridate.files import disk_was_full
from mithridate.service.database.outages import DatabaseDamaged, insist, is_away, refusing_damage
from mithridate.service.jobs.job_leases import Lease, LeaseWatch, claim, give_back, release_lost, standing_leases
from mithridate.service.policy_facts import report
from mithridate.service.service_parts import ServiceParts
from mithridate.service.worker.job_order import STORAGE_SAID, JobFailure
from mithridate.service.worker.job_process import COMMAND
from mithridate.service.worker.job_run import JobRun
from mithridate.service.worker.ray_process import EngineAway

log = logging.getLogger(__name__)

_FULL = JobFailure(code="storage_full", message=STORAGE_SAID)
REPORT = "worker "
"""Beginning of the reports of workers."""


class JobWorker:
    """A worker.

    Attributes:
        stop: Set it, and the worker returns its job and ends.

    Args:
        parts: The service.
        command: Program of a job's process.
    """

    def __init__(self, parts: ServiceParts, command: tuple[str, ...] = COMMAND) -> None:
        self._parts, self._command = parts, command
        self.name = f"{socket.gethostname()[:40]}:{os.getpid()}:{secrets.token_hex(4)}"
        self.stop = threading.Event()
        self._damaged: DatabaseDamaged | None = None

    def work(self, until_idle: bool = False) -> int:
        """Run jobs until told to stop.

        Args:
            until_idle: Whether to end when no job waits.

        Returns:
            How many jobs were run.

        Raises:
            DatabaseDamaged: If no wait would bring the database back.
        """
        watch = threading.Thread(target=self._watch, daemon=True)
        watch.start()
        try:
            count = self._work(until_idle)
        finally:
            self.stop.set()
            watch.join()
        if self._damaged is not None:
            raise self._damaged
        return count

    def _work(self, until_idle: bool) -> int:
        count = 0
        while not self.stop.is_set():
            lease = None
            try:
                with refusing_damage(), self._parts.database.write() as connection:
                    lease = claim(connection, self.name)
                if lease is not None:
                    self._run(lease)
                    count += 1
                    continue
            except SQLAlchemyError:
                # A database that is away comes back; a job whose lease then still stands is taken from us meanwhile.
                log.exception("the database cannot be written")
            if until_idle and lease is None:
                break
            self.stop.wait(self._parts.settings.leases.poll)
        return count

    def _run(self, lease: Lease) -> None:
        """Run a job; one that cannot be run must not end the worker, which others wait for."""
        log.info("job claimed", extra={"job": lease.job, "fence": lease.fence})
        try:
            with refusing_damage():
                JobRun(self._parts, lease, self.stop, self._command).run()
        except DatabaseDamaged:
            raise  # no fault of the job's, and of no use to the next one
        except EngineAway:
            log.exception(
                "the cluster was away for too long, or had no room", extra={"job": lease.job, "fence": lease.fence}
            )
            self._return(lease, False, "The cluster was away or full; the job goes on from its last checkpoint")
            self.stop.wait(self._parts.settings.leases.poll)
        except Exception as error:
            if isinstance(error, SQLAlchemyError) and is_away(error):
                log.exception("the database was away for too long", extra={"job": lease.job, "fence": lease.fence})
                # No fault of the job's: a database that is restarted often must not use up its attempts.
                self._return(lease, False, "The database was away; the job goes on from its last checkpoint")
                return
            log.exception("job not run", extra={"job": lease.job, "fence": lease.fence})
            last = _FULL if disk_was_full(error) else None
            self._return(lease, True, "The worker could not run the job; it is started again", last)

    def _return(self, lease: Lease, blamed: bool, said: str, last: JobFailure | None = None) -> None:
        leases = self._parts.settings.leases

        def given_back() -> None:
            with self._parts.database.write() as connection:
                give_back(connection, lease, leases.attempts, blamed=blamed, said=said, last=last)

        insist(given_back, self.stop, leases.poll)

    def _watch(self) -> None:
        """Look for lost workers, and say that this one is there."""
        leases = self._parts.settings.leases
        watch = LeaseWatch(leases.patience)
        while True:
            try:
                self._look(watch)
            except DatabaseDamaged as error:
                # A worker without a job only reads, which a database that cannot be written allows.
                self._damaged = error
                self.stop.set()
            except Exception:
                log.exception("lost workers not looked for; tried again")
                watch.forget()
            # More often than a lease may stand still, or the patience would be longer than it says.
            if self.stop.wait(min(leases.beat, leases.patience / 10)):
                break

    def _look(self, watch: LeaseWatch) -> None:
        with refusing_damage(), self._parts.database.write() as connection:
            report(connection, REPORT + self.name)
            for row in watch.standing(standing_leases(connection)):
                if release_lost(connection, row, self._parts.settings.leases.attempts):
                    log.warning("job taken from a lost worker", extra={"job": row.id, "fence": row.fence})
