"""Opens the database: SQLite with a write-ahead log, or PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from mithridate.errors import UsageError

BUSY = 30_000  # milliseconds that a writer waits for another one before SQLite gives up


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
        self._writing = self.engine.execution_options(begin="BEGIN IMMEDIATE")

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
        with self._writing.begin() as connection:
            yield connection

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
        connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))

    return engine
