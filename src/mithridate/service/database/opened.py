"""Opens the database: SQLite with a write-ahead log, or PostgreSQL."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from mithridate.errors import UsageError

BUSY = 30_000  # milliseconds that a writer waits for another one before it gives up
_IMMEDIATE = "BEGIN IMMEDIATE"
_PAUSES = ((0.005, 0.003), (0.02, 0.001), (0.3, 0.0003))
"""Until which second of waiting a writer asks again after which pause.

SQLite's own pauses grow to a tenth of a second, so that whoever has waited longest asks least, and newcomers overtake.
These shrink instead. A writer that still waits after the last is behind something long, as a migration.
"""
_LONG_PAUSE = 0.02


class Database:
    """The database of a service.

    Args:
        url: Its address, ``sqlite:///…`` or ``postgresql://…``.

    Raises:
        UsageError: If the address is of neither kind.
    """

    def __init__(self, url: str) -> None:
        try:
            address = make_url(url)
        except ArgumentError as error:
            # Without the text itself, which may hold a password.
            raise UsageError("database must be an address such as sqlite:////var/lib/service.db") from error
        if address.drivername in ("postgresql", "postgres"):
            address = address.set(drivername="postgresql+psycopg")
        if address.get_backend_name() not in ("sqlite", "postgresql"):
            raise UsageError(f"database is of kind '{address.get_backend_name()}'; take sqlite or postgresql")
        self.is_sqlite = address.get_backend_name() == "sqlite"
        self.address = address
        self.engine = _sqlite(address) if self.is_sqlite else create_engine(address, pool_pre_ping=True, pool_size=20)
        self._writers = threading.Lock()
        self._writing = self.engine.execution_options(begin=_IMMEDIATE)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that changes nothing."""
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that is carried out whole, or not at all after an exception."""
        # SQLite takes its write lock here, not at the first write: two that have read and then want to write would
        # otherwise both wait for the other, and one would fail at once.
        with self._queued(), self._writing.begin() as connection:
            yield connection

    @contextmanager
    def _queued(self) -> Iterator[None]:
        """Let the threads of one process write one after the other, so that one of them alone asks SQLite."""
        # Without the turn in time, SQLite says what is the matter.
        taken = self.is_sqlite and self._writers.acquire(timeout=BUSY / 1000)
        try:
            yield
        finally:
            if taken:
                self._writers.release()

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def _sqlite(address: Any) -> Engine:
    engine = create_engine(address, pool_size=20, connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, record: object) -> None:
        connection.isolation_level = None  # the driver would begin transactions by itself, and later than asked
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={BUSY}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")  # a job that a client was told of survives a power cut
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _began(connection: Connection) -> None:
        begin = connection.get_execution_options().get("begin", "BEGIN")
        if begin == _IMMEDIATE:
            _begin_in_turn(connection)
        else:
            connection.exec_driver_sql(begin)

    return engine


def _begin_in_turn(connection: Connection) -> None:
    """Begin to write as soon as the other writers let us, or raise what SQLite says after the whole patience."""
    driver: Any = connection.connection.driver_connection
    began = time.monotonic()
    driver.execute("PRAGMA busy_timeout=0")
    try:
        while _is_busy(driver) and (waited := time.monotonic() - began) < BUSY / 1000:
            time.sleep(_pause(waited))
        if not driver.in_transaction:
            connection.exec_driver_sql(_IMMEDIATE)  # once more, for an error in SQLAlchemy's form
    finally:
        driver.execute(f"PRAGMA busy_timeout={BUSY}")


def _is_busy(driver: Any) -> bool:
    """Begin to write; return whether another writer is in the way."""
    try:
        driver.execute(_IMMEDIATE)
    except sqlite3.Error as error:
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
    return False


def _pause(waited: float) -> float:
    return next((pause for until, pause in _PAUSES if waited < until), _LONG_PAUSE)
