"""Shows that a worker lives, beside whatever it does for its job.

Copying a large upload or hashing a model takes longer than a worker may be silent.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from mithridate.service.database.opened import Database
from mithridate.service.jobs.job_leases import Lease, beat

log = logging.getLogger(__name__)


@contextmanager
def beating(database: Database, lease: Lease, seconds: float) -> Iterator[None]:
    """Show life for a lease while something is done under it.

    Args:
        database: The database.
        lease: The lease; once it is lost, there are no more beats.
        seconds: Between two beats.
    """
    stop = threading.Event()
    thread = threading.Thread(target=_beat_until, args=(database, lease, seconds, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _beat_until(database: Database, lease: Lease, seconds: float, stop: threading.Event) -> None:
    while not stop.wait(seconds):
        try:
            with database.write() as connection:
                if not beat(connection, lease):
                    return
        except SQLAlchemyError:
            # Without an answer for long enough, the lease goes to another worker, as it should.
            log.exception("no sign of life could be given", extra={"job": lease.job, "fence": lease.fence})
