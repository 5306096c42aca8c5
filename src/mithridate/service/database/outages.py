"""What a fault of the database means: it is away for a while, or it is damaged.

A database that is restarted, fails over, is locked or has no room comes back by itself, and one waits for it. One that
lacks a table, whose file is no database any more, or that may not be written stays so until somebody mends it.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError, TimeoutError

from mithridate.errors import ServiceError

log = logging.getLogger(__name__)

Found = TypeVar("Found")

# SQLite, by primary result code (https://www.sqlite.org/rescode.html). An input/output error and a file that cannot be
# opened pass with a disk that is full, not mounted or not reached.
_SQLITE_AWAY = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_INTERRUPT,
}
_SQLITE_DAMAGED = {
    sqlite3.SQLITE_ERROR,  # with our statements: no such table, no such column
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_SCHEMA,
}
_SQLITE_FORBIDDEN = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}

# PostgreSQL, by SQLSTATE or its class (https://www.postgresql.org/docs/current/errcodes-appendix.html): no connection,
# transaction to be repeated, no resources, object in use, operator's intervention (also: starting up), and a standby.
_POSTGRES_AWAY = ("08", "40", "53", "55", "57", "25006")
# Undefined table, column or type, invalid schema or catalog, system error, data or index corrupted.
_POSTGRES_DAMAGED = ("42P01", "42703", "42704", "3D", "3F", "58", "XX")
_POSTGRES_FORBIDDEN = ("42501", "28")


class DatabaseDamaged(ServiceError):
    """A database that waiting does not mend."""


def is_away(error: SQLAlchemyError) -> bool:
    """Return whether the database comes back by itself."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, TimeoutError)  # every connection is in use
    if error.connection_invalidated:
        return True
    if (code := _sqlite_code(error)) is not None:
        return code in _SQLITE_AWAY
    if (state := _sqlstate(error)) is not None:
        return state.startswith(_POSTGRES_AWAY)
    # A PostgreSQL that cannot be reached says so without a code, also where it refuses a password.
    return isinstance(error, OperationalError)


def damage_of(error: SQLAlchemyError) -> str | None:
    """Return what is damaged and what to do; None where the database is away, or only the statement was wrong."""
    if not isinstance(error, DBAPIError) or is_away(error):
        return None
    code, state = _sqlite_code(error), _sqlstate(error) or ""
    if code in _SQLITE_FORBIDDEN or state.startswith(_POSTGRES_FORBIDDEN):
        said = "the database may not be written: {}; give the service's user the right to, then start it again"
    elif code in _SQLITE_DAMAGED or state.startswith(_POSTGRES_DAMAGED):
        said = "the database is damaged: {}; restore a backup into an empty folder with mithridate service restore"
    else:
        return None
    return said.format(fault_of(error))


@contextmanager
def refusing_damage() -> Iterator[None]:
    """Raise one clear error where a statement inside the block finds the database damaged.

    Raises:
        DatabaseDamaged: If it is damaged.
    """
    try:
        yield
    except SQLAlchemyError as error:
        if (said := damage_of(error)) is not None:
            raise DatabaseDamaged(said) from error
        raise


def insist(do: Callable[[], Found], stop: threading.Event, pause: float) -> Found:
    """Do something with the database, again and again while it is away, and return what it gave.

    Args:
        do: What to do. It may have been carried out before an answer was lost, so twice must be as good as once.
        stop: Set to wait no longer.
        pause: Seconds between two attempts.

    Raises:
        SQLAlchemyError: If the database is still away when told to stop, or the statement was wrong.
        DatabaseDamaged: If it is damaged.
    """
    while True:
        try:
            with refusing_damage():
                return do()
        except SQLAlchemyError as error:
            if not is_away(error):
                raise
            log.warning("the database is away", extra={"fault": fault_of(error)})
            if stop.wait(pause):
                raise


def fault_of(error: SQLAlchemyError) -> str:
    """Return the first line of what the database or its driver said, without the statement and its values."""
    said = error.orig if isinstance(error, DBAPIError) else error
    return (str(said).strip().splitlines() or [""])[0]


def _sqlite_code(error: DBAPIError) -> int | None:
    """Return SQLite's primary result code, without what extends it."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _sqlstate(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)
