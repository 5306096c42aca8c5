"""A worker keeps its job through long steps, and outlives whatever goes wrong with one."""

import logging
import threading
import time

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from mithridate.service.database.tables import EVENTS, JOBS
from mithridate.service.jobs.job_leases import claim, give_back
from mithridate.service.jobs.transitions import move
from mithridate.service.worker import job_run, worker_loop
from tests.matrix.row import thinned
from tests.service.conftest import until, work
from tests.service.test_crashes import create, state
from tests.service.test_leases import add, project


def full(*_):
    raise OSError(28, "No space left on device")


def first_time(real, error):
    """The same function, which fails when it is called first."""
    calls = []

    def called(*given, **named):
        calls.append(given)
        if len(calls) == 1:
            raise error
        return real(*given, **named)

    return called


@pytest.mark.parametrize("step", thinned(["prepared", "concluded"], ["concluded"]))
def test_a_worker_that_copies_or_hashes_for_long_keeps_its_job(parts, client, monkeypatch, step):
    """The patience of these tests is one second; another worker watches for it."""
    place, name = (parts.blobs, "copy_out") if step == "prepared" else (job_run, "take_outcome")
    real = getattr(place, name)

    def slow(*given):
        time.sleep(2.5)
        return real(*given)

    monkeypatch.setattr(place, name, slow)
    job = create(client)
    work(parts)  # its own watch looks for lost workers, and would take itself for one
    row = state(parts, job)
    assert (row.state, row.attempts) == ("succeeded", 1)


def test_a_full_disk_ends_neither_the_worker_nor_at_once_the_job(parts, client, monkeypatch, caplog):
    real = parts.blobs.copy_out
    monkeypatch.setattr(parts.blobs, "copy_out", first_time(real, OSError(28, "No space left on device")))
    job = create(client)
    with caplog.at_level(logging.ERROR):
        assert work(parts) == 2
    row = state(parts, job)
    assert (row.state, row.attempts) == ("succeeded", 2)
    assert "No space left" in caplog.text
    with parts.database.read() as connection:
        said = connection.execute(select(EVENTS.c.message).where(EVENTS.c.job_id == job)).scalars().all()
    assert "The worker could not run the job; it is started again" in said


def broken(*_):
    raise ValueError("odd")


@pytest.mark.parametrize(("fault", "code"), [(full, "storage_full"), (broken, "worker_lost")])
def test_a_job_that_can_never_be_run_is_given_up_and_the_next_one_runs(parts, client, monkeypatch, fault, code):
    job = create(client)
    monkeypatch.setattr(job_run, "end_earlier", fault)
    assert work(parts) == 3
    assert (state(parts, job).state, state(parts, job).error["code"]) == ("failed", code)
    monkeypatch.undo()
    job = create(client, "next")
    assert work(parts) == 1
    assert state(parts, job).state == "succeeded"


def test_progress_that_is_none_ends_its_job_alone(parts, client):
    job = create(client, "bad_progress")
    assert work(parts) == 3
    assert state(parts, job).error["code"] == "worker_lost"


def test_a_database_that_was_away_is_asked_again(parts, client, worker, monkeypatch):
    away = OperationalError("claim", {}, Exception("away"))
    monkeypatch.setattr(worker_loop, "claim", first_time(worker_loop.claim, away))
    job = create(client)
    until(lambda: state(parts, job).state == "succeeded")


def test_lost_workers_are_looked_for_after_an_error(parts, client, monkeypatch):
    job = create(client)
    with parts.database.write() as connection:
        assert claim(connection, "lost") is not None
    monkeypatch.setattr(worker_loop, "standing_leases", first_time(worker_loop.standing_leases, ValueError("odd")))
    monkeypatch.setattr(worker_loop, "claim", lambda *_: None)
    one = worker_loop.JobWorker(parts, ("false",))
    thread = threading.Thread(target=one.work, daemon=True)
    thread.start()
    until(lambda: state(parts, job).worker is None)
    one.stop.set()
    thread.join(10)


def test_a_job_that_has_ended_is_not_given_back(parts):
    with parts.database.write() as connection:
        project(connection)
        name = add(connection)
        lease = claim(connection, "w")
        move(connection, name, "failed", fence=lease.fence)
        give_back(connection, lease, 3, blamed=True, said="it is started again")
        assert connection.execute(select(JOBS.c.fence)).scalar_one() == lease.fence
        assert "it is started again" not in connection.execute(select(EVENTS.c.message)).scalars().all()
