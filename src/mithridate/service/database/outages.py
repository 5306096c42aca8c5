"""A database that is away for a while: restarted, failing over, or out of disk."""

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import OperationalError

log = logging.getLogger(__name__)

Found = TypeVar("Found")


def insist(do: Callable[[], Found], stop: threading.Event, pause: float) -> Found:
    """Do something with the database, again and again while it is away, and return what it gave.

    Args:
        do: What to do. It may have been carried out before an answer was lost, so twice must be as good as once.
        stop: Set to wait no longer.
        pause: Seconds between two attempts.

    Raises:
        OperationalError: If the database is still away when told to stop.
    """
    while True:
        try:
            return do()
        except OperationalError as error:
            log.warning("the database is away", extra={"fault": fault_of(error)})
            if stop.wait(pause):
                raise


def fault_of(error: OperationalError) -> str:
    """Return the first line of what the database or its driver said."""
    return (str(error.orig).splitlines() or [""])[0]
