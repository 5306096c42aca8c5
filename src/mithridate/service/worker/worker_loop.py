"""A worker: claims one job after the other, runs each in a process of its own, and takes over those of lost workers."""

import logging
import os
import secrets
import socket
import threading

from mithridate.service.jobs.job_leases import LeaseWatch, claim, release_lost, standing_leases
from mithridate.service.policy_facts import report
from mithridate.service.service_parts import ServiceParts
from mithridate.service.worker.job_process import COMMAND
from mithridate.service.worker.job_run import JobRun

log = logging.getLogger(__name__)

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

    def work(self, until_idle: bool = False) -> int:
        """Run jobs until told to stop.

        Args:
            until_idle: Whether to end when no job waits.

        Returns:
            How many jobs were run.
        """
        leases = self._parts.settings.leases
        watch = threading.Thread(target=self._watch, daemon=True)
        watch.start()
        count = 0
        while not self.stop.is_set():
            with self._parts.database.write() as connection:
                lease = claim(connection, self.name)
            if lease is not None:
                log.info("job claimed", extra={"job": lease.job, "fence": lease.fence})
                JobRun(self._parts, lease, self.stop, self._command).run()
                count += 1
            elif until_idle:
                break
            else:
                self.stop.wait(leases.poll)
        self.stop.set()
        watch.join()
        return count

    def _watch(self) -> None:
        """Look for lost workers, and say that this one is there."""
        leases, database = self._parts.settings.leases, self._parts.database
        watch = LeaseWatch(leases.patience)
        while True:
            with database.write() as connection:
                report(connection, REPORT + self.name)
                for row in watch.standing(standing_leases(connection)):
                    if release_lost(connection, row, leases.attempts):
                        log.warning("job taken from a lost worker", extra={"job": row.id, "fence": row.fence})
            # More often than a lease may stand still, or the patience would be longer than it says.
            if self.stop.wait(min(leases.beat, leases.patience / 10)):
                break
