"""The database is away for a moment, or for long, while jobs run and clients ask."""

import threading
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
from benchmarks.own_postgres import Absent
from benchmarks.service_outages import outages
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from mithridate.service.database.opened import Database
from mithridate.service.database.outages import insist
from mithridate.service.database.tables import EVENTS
from mithridate.service.jobs.job_leases import LeaseWatch, claim, standing_leases
from mithridate.service.jobs.transitions import move
from mithridate.service.worker.job_run import JobRun
from mithridate.service.worker.worker_loop import JobWorker
from tests.service.conftest import until, upload
from tests.service.processes import FAKE
from tests.service.test_crashes import create, state
from tests.service.test_leases import add, project


class Plug:
    """Pulled, no transaction begins; in again, everything is as before."""

    def __init__(self, monkeypatch):
        self.pulled = threading.Event()
        for name in ("read", "write"):
            monkeypatch.setattr(Database, name, self._guarded(getattr(Database, name)))

    def _guarded(self, real):
        @contextmanager
        def begun(database):
            if self.pulled.is_set() and threading.current_thread() is not threading.main_thread():
                raise OperationalError("begin", {}, Exception("connection refused\nis it running?"))
            with real(database) as connection:
                yield connection

        return begun

    def out(self, seconds):
        self.pulled.set()
        threading.Event().wait(seconds)
        self.pulled.clear()


@pytest.fixture
def plug(monkeypatch):
    return Plug(monkeypatch)


def events(parts, job):
    with parts.database.read() as connection:
        query = select(EVENTS.c.message).where(EVENTS.c.job_id == job).order_by(EVENTS.c.seq)
        return list(connection.execute(query).scalars())


@pytest.mark.parametrize("away", [0.3, 2.5])
def test_an_outage_costs_a_job_none_of_its_attempts(parts, client, worker, plug, away):
    """The patience of these tests is one second: a short outage is outlasted, a long one gives the job back."""
    job = create(client, "steps60")
    until(lambda: state(parts, job).steps_done > 5)
    plug.out(away)
    until(lambda: state(parts, job).state == "succeeded")
    assert state(parts, job).attempts == 1
    told = events(parts, job)
    assert told.count("The job has successfully completed") == 1
    assert ("The database was away; the job goes on from its last checkpoint" in told) == (away > 1)


def test_what_a_job_told_during_an_outage_is_not_lost(parts, client, worker, plug):
    plain = create(client, "steps15")
    until(lambda: state(parts, plain).state == "succeeded")
    job = create(client, "steps15")
    until(lambda: state(parts, job).state == "running")
    plug.out(0.8)  # the job ends meanwhile
    until(lambda: state(parts, job).state == "succeeded")
    assert (state(parts, job).attempts, state(parts, job).steps_done) == (1, 15)
    wanted = [message for message in events(parts, plain) if message.startswith("Step ")]
    assert wanted
    assert [message for message in events(parts, job) if message.startswith("Step ")] == wanted


def test_figures_whose_write_was_rolled_back_are_told_again(parts, client, worker, monkeypatch):
    plain = create(client, "steps15")
    until(lambda: state(parts, plain).state == "succeeded")
    real, failed = JobRun._told, []

    def told(run, connection, line):
        real(run, connection, line)
        if line.kind == "metrics" and len(failed) < 2:
            failed.append(line)
            raise OperationalError("commit", {}, Exception("connection lost"))

    monkeypatch.setattr(JobRun, "_told", told)
    job = create(client, "steps15")
    until(lambda: state(parts, job).state == "succeeded")
    assert len(failed) == 2
    wanted = [message for message in events(parts, plain) if message.startswith("Step ")]
    assert [message for message in events(parts, job) if message.startswith("Step ")] == wanted


def test_a_worker_that_shuts_down_during_an_outage_ends(parts, client, plug):
    job = create(client, "steps500")
    worker = JobWorker(parts, FAKE)
    thread = threading.Thread(target=worker.work)
    thread.start()
    until(lambda: state(parts, job).state == "running")
    plug.pulled.set()
    worker.stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert state(parts, job).worker is not None  # another one takes the job when its lease has run out


def test_clients_are_told_to_ask_again(parts, server, client, key, plug):
    file = client.files.create(file=("rows.jsonl", upload()), purpose="fine-tune")
    plug.pulled.set()
    for call in (
        client.files.list,
        lambda: client.fine_tuning.jobs.create(model="miniature", training_file=file.id),
        lambda: client.files.create(file=("rows.jsonl", upload()), purpose="fine-tune"),
    ):
        with pytest.raises(openai.InternalServerError) as raised:
            call()
        assert raised.value.status_code == 503
        assert raised.value.body["code"] == "database_unavailable"
    threading.Timer(0.5, plug.pulled.clear).start()
    patient = server.client(key, max_retries=5)
    assert patient.fine_tuning.jobs.create(model="miniature", training_file=file.id).status == "validating_files"


@pytest.mark.parametrize("committed", [True, False])
def test_bytes_stay_while_nobody_knows_whether_their_row_was_written(parts, client, monkeypatch, committed):
    """An answer that is lost on its way back says nothing about the transaction."""
    real = Database.write

    @contextmanager
    def lost(database):
        with real(database) as connection:
            yield connection
            if not committed:
                raise OperationalError("commit", {}, Exception("server closed the connection"))
        raise OperationalError("commit", {}, Exception("server closed the connection"))

    monkeypatch.setattr(Database, "write", lost)
    with pytest.raises(openai.InternalServerError):
        client.files.create(file=("rows.jsonl", upload()), purpose="fine-tune")
    monkeypatch.undo()
    assert len(parts.blobs.names()) == 1
    for file in client.files.list():
        assert client.files.content(file.id).read() == upload()
    assert len(list(client.files.list())) == committed


def test_nobody_is_lost_because_nobody_could_look(parts):
    with parts.database.write() as connection:
        project(connection)
        name = add(connection)
        lease = claim(connection, "w")
    now = [0.0]
    watch = LeaseWatch(30, clock=lambda: now[0])
    with parts.database.write() as connection:
        assert watch.standing(standing_leases(connection)) == []
        now[0] = 100  # the database was away all the time
        watch.forget()
        assert watch.standing(standing_leases(connection)) == []
        now[0] = 130
        assert [row.id for row in watch.standing(standing_leases(connection))] == [name]
        assert move(connection, name, "failed", fence=lease.fence)


def test_other_errors_are_not_waited_for():
    with pytest.raises(ValueError, match="odd"):
        insist(lambda: int("odd"), threading.Event(), 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_postgresql_that_is_killed_over_and_over_loses_no_job(tmp_path: Path):
    """J8 in small; `python -m benchmarks.service_outages` has its two hundred jobs."""
    try:
        found = outages(tmp_path / "service", 8, 2, 2, (2, 4), (0, 1))
    except Absent as absent:
        pytest.skip(str(absent))
    assert found["outages"] > 0
    assert (found["lost"], found["made_twice"], found["done_twice"], found["models"]) == (0, 0, 0, 8)
