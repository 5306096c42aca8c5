"""Writers on SQLite take turns: within a process in a queue, between processes in pauses that shrink."""

import sqlite3
import threading
import time

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from mithridate.service.database import opened
from mithridate.service.database.outages import is_away
from mithridate.service.database.tables import PROJECTS
from tests.service.conftest import make_parts


@pytest.fixture
def database(parts):
    with parts.database.write() as connection:
        connection.execute(PROJECTS.insert().values(id="p", name="p", created_at=0))
    return parts.database


@pytest.fixture
def other(parts):
    """Another process's connection."""
    held = sqlite3.connect(parts.settings.folder / "service.db", isolation_level=None, check_same_thread=False)
    yield held
    held.close()


def count(database):
    with database.read() as connection:
        return connection.execute(select(PROJECTS.c.created_at)).scalar_one()


def add_one(database):
    with database.write() as connection:
        connection.execute(update(PROJECTS).values(created_at=PROJECTS.c.created_at + 1))


def test_whoever_has_waited_longer_asks_more_often():
    pauses = [opened._pause(waited) for waited in (0, 0.004, 0.01, 0.1, 0.29)]
    assert pauses == sorted(pauses, reverse=True)
    assert pauses[0] > pauses[-1]
    # Behind a migration or a backup there is nothing to win by it.
    assert opened._pause(5) > pauses[0]


def test_every_thread_gets_its_turn(database):
    def run():
        for _ in range(20):
            add_one(database)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(database) == 160


def test_a_writer_waits_for_another_process_and_goes_on(database, other):
    other.execute("begin immediate")
    thread = threading.Thread(target=add_one, args=(database,))
    thread.start()
    time.sleep(0.5)
    assert count(database) == 0  # readers wait for nobody
    other.execute("commit")
    thread.join(10)
    assert count(database) == 1
    with database.write() as connection:
        assert connection.exec_driver_sql("pragma busy_timeout").scalar_one() == opened.BUSY


def test_a_writer_that_waits_for_too_long_says_so_and_blocks_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(opened, "BUSY", 100)
    parts = make_parts(tmp_path / "service")
    held = sqlite3.connect(parts.settings.folder / "service.db", isolation_level=None)
    held.execute("begin immediate")
    for _ in range(2):
        with pytest.raises(OperationalError, match="database is locked") as raised:
            add_one(parts.database)
        assert is_away(raised.value)
    held.execute("rollback")
    held.close()
    add_one(parts.database)


def test_a_writer_that_fails_gives_its_turn_on(database):
    with pytest.raises(ZeroDivisionError), database.write():
        raise ZeroDivisionError
    thread = threading.Thread(target=add_one, args=(database,))
    thread.start()
    thread.join(10)
    assert count(database) == 1


def test_threads_behind_one_that_never_ends_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(opened, "BUSY", 100)
    parts, told = make_parts(tmp_path / "service"), []

    def late():
        try:
            add_one(parts.database)
        except OperationalError as error:
            told.append(str(error.orig))

    with parts.database.write():
        thread = threading.Thread(target=late)
        thread.start()
        thread.join(10)
    assert told == ["database is locked"]
    add_one(parts.database)
