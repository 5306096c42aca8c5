"""Removes what is over or was lost: expired uploads and files, and bytes that belong to nothing."""

import logging
import threading
import time

from sqlalchemy import delete, select

from mithridate.service.contract.object_ids import now
from mithridate.service.database.tables import FILES, PARTS
from mithridate.service.service_parts import ServiceParts
from mithridate.service.uploads_in_parts import expire_uploads
from mithridate.service.worker.job_leftovers import drop_leftovers, ended_jobs_of

log = logging.getLogger(__name__)

PAUSE = 300
"""Seconds between two rounds."""
LOST = 1800
"""Seconds after which bytes without a row were lost by a request that did not finish; less than an hour."""


class Housekeeping:
    """Keeps the store tidy.

    Args:
        parts: The service.
        lost: Seconds after which bytes without a row are deleted.
    """

    def __init__(self, parts: ServiceParts, lost: float = LOST) -> None:
        self._parts, self._lost = parts, lost
        self._seen: dict[str, float] = {}

    def round(self) -> int:
        """Do one round, and return how many things were removed."""
        removed = expire_uploads(self._parts) + self._expire_files() + self._sweep()
        removed += self._parts.blobs.sweep_staging(time.time() - self._lost)
        if removed:
            log.info("housekeeping", extra={"removed": removed})
        return removed

    def until(self, stop: threading.Event) -> None:
        """Do round after round, until told to stop."""
        while True:
            try:
                self.round()
            except Exception:
                log.exception("housekeeping not done; tried again")
            if stop.wait(PAUSE):
                return

    def _expire_files(self) -> int:
        late = FILES.c.expires_at <= now()
        with self._parts.database.write() as connection:
            names = list(connection.execute(select(FILES.c.id).where(late)).scalars())
            ended = [job for name in names for job in ended_jobs_of(connection, name)]
            connection.execute(delete(FILES).where(late))
            for name in names:
                self._parts.audit.add(connection, "operator", "file.expire", name)
        for name in names:
            self._parts.blobs.delete(name)
        for job in ended:
            drop_leftovers(self._parts.settings.jobs_folder / job)
        return len(names)

    def _sweep(self) -> int:
        """Delete bytes without a row, once they have been so for long: those of a request that just ends are not."""
        names = self._parts.blobs.names()
        with self._parts.database.read() as connection:
            known = {name for table in (FILES, PARTS) for name in connection.execute(select(table.c.id)).scalars()}
        at = time.monotonic()
        self._seen = {name: self._seen.get(name, at) for name in names if name not in known}
        lost = [name for name, since in self._seen.items() if at - since >= self._lost]
        for name in lost:
            self._parts.blobs.delete(name)
        return len(lost)
