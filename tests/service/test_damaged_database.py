"""A database that is away is waited for; one that is damaged ends its workers with one sentence."""

import logging
import sqlite3
import threading
from contextlib import ExitStack, closing, contextmanager

import pytest
from benchmarks.own_postgres import Absent, own_postgres
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError, TimeoutError

from mithridate.errors import ServiceError
from mithridate.service.database import opened
from mithridate.service.database.migrating import require_newest
from mithridate.service.database.opened import Database
from mithridate.service.database.outages import DatabaseDamaged, damage_of, insist, is_away
from mithridate.service.database.tables import JOBS, PROJECTS
from mithridate.service.starting import open_made
from mithridate.service.worker.worker_loop import JobWorker
from tests.service.conftest import FAKE, Server, make_parts, new_key, until, upload
from tests.service.test_crashes import create, state


def drop_table(parts):
    with parts.database.write() as connection:
        connection.exec_driver_sql("drop table job_metadata")
        connection.exec_driver_sql("alter table jobs rename to elsewhere")


def overwrite(parts):
    """Leave nothing of the file, nor of what SQLite keeps beside it."""
    file = parts.settings.folder / "service.db"
    parts.database.close()
    with sqlite3.connect(file) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()
    file.write_bytes(b"rubbish " * (file.stat().st_size // 8))


def forbid(parts):
    parts.database.close()
    # The superuser may write whatever its mode says; SQLite itself may not.
    given = Database(f"sqlite:///file:{parts.settings.folder / 'service.db'}?mode=ro&uri=true")
    object.__setattr__(parts, "database", given)


DAMAGES = [
    pytest.param(drop_table, "the database is damaged: no such table: jobs; restore a backup", id="dropped"),
    pytest.param(overwrite, "the database is damaged: file is not a database; restore a backup", id="overwritten"),
    pytest.param(forbid, "the database may not be written: attempt to write a readonly database; give", id="read-only"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGES)
def test_a_worker_without_a_job_ends(parts, damage, said):
    damage(parts)
    worker = JobWorker(parts, FAKE)
    with pytest.raises(DatabaseDamaged, match=said):
        worker.work()
    assert worker.stop.is_set()


@pytest.mark.parametrize(("damage", "said"), DAMAGES)
def test_a_worker_with_a_job_ends_and_so_does_the_job(parts, client, damage, said):
    job = create(client, "steps500")
    worker, ended = JobWorker(parts, FAKE), []

    def run():
        try:
            worker.work()
        except DatabaseDamaged as error:
            ended.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: state(parts, job).steps_done > 5)
    damage(parts)
    thread.join(15)
    assert not thread.is_alive()
    assert len(ended) == 1
    assert ended[0].startswith(("the database is damaged: ", "the database may not be written: "))
    assert not list((parts.settings.jobs_folder / job).glob("outcome*"))


@pytest.mark.parametrize(("damage", "said"), DAMAGES)
def test_the_server_answers_500_and_tells_its_log(parts, server, key, damage, said, caplog):
    http = server.http(key)
    file = {"file": ("rows.jsonl", upload())}
    damage(parts)
    with caplog.at_level(logging.CRITICAL):
        answer = http.post("/v1/files", files=file, data={"purpose": "fine-tune"})
        if damage is drop_table:  # what it needs is there
            assert answer.status_code == 200
            answer = http.get("/v1/fine_tuning/jobs")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "Retry-After" not in answer.headers
    assert said in caplog.text


@pytest.mark.parametrize(("damage", "said"), [*DAMAGES[:2]])
def test_nothing_is_started_on_a_damaged_database(parts, damage, said):
    damage(parts)
    missing = "lacks the table job_metadata" if damage is drop_table else said
    with pytest.raises(DatabaseDamaged, match=missing):
        open_made(parts.settings)


def test_readiness_tells_a_damaged_database_from_one_that_is_away(parts, server, monkeypatch):
    assert "database" not in server.http().get("/readyz").json()["faults"]
    with parts.database.write() as connection:
        connection.exec_driver_sql("drop table reports")
    assert server.http().get("/readyz").json()["faults"]["database"].startswith("the database is damaged")


@contextmanager
def locked(parts):
    holder = sqlite3.connect(parts.settings.folder / "service.db", isolation_level=None)
    holder.execute("begin immediate")
    yield
    holder.execute("rollback")
    holder.close()


def test_a_locked_database_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(opened, "BUSY", 100)
    parts = make_parts(tmp_path / "service")
    server = Server(parts)
    key = new_key(parts)
    client = server.client(key)
    job = create(client)
    worker = JobWorker(parts, FAKE)
    thread = threading.Thread(target=worker.work)
    with locked(parts):
        thread.start()
        answer = server.http(key).post(
            "/v1/files", files={"file": ("a.jsonl", upload())}, data={"purpose": "fine-tune"}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")
        assert answer.headers["Retry-After"] == "1"
        assert thread.is_alive()
    until(lambda: state(parts, job).state == "succeeded")
    assert state(parts, job).attempts == 1
    worker.stop.set()
    thread.join(10)
    server.close()


def test_a_row_that_cannot_be_written_is_neither_away_nor_damaged(parts):
    with parts.database.write() as connection, pytest.raises(IntegrityError) as raised:
        connection.execute(PROJECTS.insert(), [{"id": "a", "name": "a", "created_at": 0}] * 2)
    assert not is_away(raised.value)
    assert damage_of(raised.value) is None
    with pytest.raises(IntegrityError):
        insist(lambda: (_ for _ in ()).throw(raised.value), threading.Event(), 60)


class Fault(Exception):
    """What a driver raises."""

    def __init__(self, **facts):
        super().__init__("the driver's words\nand an address")
        vars(self).update(facts)


AWAY = [
    {"sqlite_errorcode": sqlite3.SQLITE_BUSY_SNAPSHOT},
    {"sqlite_errorcode": sqlite3.SQLITE_LOCKED_SHAREDCACHE},
    {"sqlite_errorcode": sqlite3.SQLITE_FULL},
    {"sqlite_errorcode": sqlite3.SQLITE_IOERR_SHMSIZE},
    {"sqlite_errorcode": sqlite3.SQLITE_CANTOPEN},
    {"sqlstate": "08006"},
    {"sqlstate": "57P01"},
    {"sqlstate": "57P03"},
    {"sqlstate": "53100"},
    {"sqlstate": "53300"},
    {"sqlstate": "40001"},
    {"sqlstate": "25006"},
    {"sqlstate": None},
]
DAMAGED = [
    {"sqlite_errorcode": sqlite3.SQLITE_CORRUPT_INDEX},
    {"sqlite_errorcode": sqlite3.SQLITE_READONLY_DBMOVED},
    {"sqlstate": "42P01"},
    {"sqlstate": "42501"},
    {"sqlstate": "XX001"},
]


@pytest.mark.parametrize("facts", AWAY, ids=str)
def test_what_passes(facts):
    error = OperationalError("select", {}, Fault(**facts))
    assert is_away(error)
    assert damage_of(error) is None


@pytest.mark.parametrize("facts", DAMAGED, ids=str)
def test_what_stays(facts):
    error = OperationalError("select", {"password": "secret"}, Fault(**facts))
    assert not is_away(error)
    said = damage_of(error)
    assert "the driver's words; " in said
    assert not [word for word in ("secret", "select", "address") if word in said]


@pytest.mark.parametrize("facts", [{"sqlstate": "22021"}, {"sqlstate": "42601"}, {"sqlite_errorcode": 19}], ids=str)
def test_what_is_a_fault_of_the_statement(facts):
    error = DBAPIError("select", {}, Fault(**facts))
    assert (is_away(error), damage_of(error)) == (False, None)


def test_a_lost_connection_passes_whatever_its_error():
    assert is_away(DBAPIError("select", {}, Fault(sqlstate="XX000"), connection_invalidated=True))
    assert is_away(TimeoutError("every connection is in use"))
    assert not is_away(SQLAlchemyError("something else"))


def test_postgresql_stopped_and_damaged(tmp_path):
    with ExitStack() as stack:
        try:
            server = stack.enter_context(own_postgres())
        except Absent as absent:
            pytest.skip(str(absent))
        parts = make_parts(tmp_path / "service", database=server.create("one"))
        job = create(stack.enter_context(closing(Server(parts))).client(new_key(parts)), "steps60")
        worker, ended = JobWorker(parts, FAKE), []

        def succeeded():
            try:
                found = state(parts, job).state
            except SQLAlchemyError as error:
                if not is_away(error):
                    raise
                found = "away"  # on a busy machine a server that has just been started may not answer yet
            return found == "succeeded"

        def run():
            try:
                worker.work()
            except ServiceError as error:
                ended.append(str(error))

        thread = threading.Thread(target=run)
        thread.start()
        until(lambda: state(parts, job).steps_done > 5)
        server.stop()
        for attempt in range(2):  # the first meets a connection that was lost, the second one that is refused
            with pytest.raises(SQLAlchemyError) as raised, parts.database.read() as connection:
                connection.execute(select(JOBS))
            assert is_away(raised.value), attempt
        with pytest.raises(ServiceError, match="does not answer"):
            require_newest(parts.database)
        server.start()
        until(succeeded)
        with parts.database.write() as connection:
            connection.exec_driver_sql("alter table jobs rename to elsewhere")
        thread.join(15)
        assert ended == [
            'the database is damaged: relation "jobs" does not exist; restore a backup into an empty folder with '
            "mithridate service restore"
        ]
        with pytest.raises(DatabaseDamaged, match="lacks the table jobs"):
            require_newest(parts.database)
        parts.database.close()
