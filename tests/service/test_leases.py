"""Who runs a job: exactly one worker at a time, whatever clocks, crashes and stopped processes do."""

import multiprocessing
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import insert, select
from sqlalchemy.event import listen

from mithridate.service.contract.object_ids import new_id
from mithridate.service.database.tables import EVENTS, JOBS, PROJECTS
from mithridate.service.jobs.job_creation import unfinished
from mithridate.service.jobs.job_leases import (
    LeaseWatch,
    beat,
    claim,
    give_back,
    holds,
    release_lost,
    standing_leases,
)
from mithridate.service.jobs.job_states import EDGES, HELD, TERMINAL
from mithridate.service.jobs.transitions import move
from tests.service.conftest import make_parts
from tests.service.draining import drain


def project(connection):
    connection.execute(insert(PROJECTS).values(id="proj_1", name="one", created_at=0))


def add(connection, state="queued"):
    name = new_id("job")
    connection.execute(
        insert(JOBS).values(
            id=name, project_id="proj_1", model="m", training_file="file-x", training_sha256="0", method={}, seed=0,
            state=state, result_files=[], created_at=0, body_sha256=name,
        )
    )  # fmt: skip
    return name


@pytest.fixture
def database(parts):
    with parts.database.write() as connection:
        project(connection)
    return parts.database


@pytest.mark.parametrize(("jobs", "processes"), [(200, 3), pytest.param(2000, 8, marks=pytest.mark.slow)])
def test_many_workers_claim_every_job_once(parts, database, jobs, processes):
    with database.write() as connection:
        names = {add(connection) for _ in range(jobs)}
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=drain, args=(parts.settings.database_url, results)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=250) for _ in workers]
    for worker in workers:
        worker.join()
    count = Counter(name for taken, _ in found for name in taken)
    assert set(count) == names
    assert max(count.values()) == 1
    times = sorted(one for _, times in found for one in times)
    print(f"{jobs} jobs, {processes} workers: 99 % of claims within {1000 * times[int(0.99 * len(times))]:.1f} ms")


def test_a_lost_workers_job_is_taken_and_its_late_writes_are_not(database):
    with database.write() as connection:
        name = add(connection)
        old = claim(connection, "first")
    now = [0.0]
    watch = LeaseWatch(30, clock=lambda: now[0])
    with database.write() as connection:
        assert watch.standing(standing_leases(connection)) == []
        now[0] = 29
        assert watch.standing(standing_leases(connection)) == []
        now[0] = 30
        (row,) = watch.standing(standing_leases(connection))
        assert release_lost(connection, row, 3)
        new = claim(connection, "second")
    assert new.job == name
    assert new.fence > old.fence
    with database.write() as connection:
        # The first was only stopped, and goes on: nothing of what it writes is taken.
        assert not holds(connection, old)
        assert not beat(connection, old, steps_done=99)
        assert not move(connection, name, "running", fence=old.fence)
        assert not move(connection, name, "failed", fence=old.fence)
        give_back(connection, old, 3, blamed=True, said="")
        assert holds(connection, new)
        assert connection.execute(select(JOBS.c.steps_done)).scalar_one() == 0


def test_a_worker_that_shows_life_at_the_last_moment_keeps_its_job(database):
    with database.write() as connection:
        add(connection)
        lease = claim(connection, "w")
        (row,) = standing_leases(connection)
        assert beat(connection, lease)
        assert not release_lost(connection, row, 3)
        assert holds(connection, lease)


@pytest.mark.parametrize("shift", [-3600, 3600])
def test_a_clock_that_jumps_gives_no_job_to_two(database, monkeypatch, shift):
    with database.write() as connection:
        add(connection)
        lease = claim(connection, "w")
    watch = LeaseWatch(30)
    with database.write() as connection:
        watch.standing(standing_leases(connection))
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + shift)
        assert watch.standing(standing_leases(connection)) == []
        assert claim(connection, "other") is None
        assert holds(connection, lease)


@pytest.mark.parametrize("what", ["claim", "standing", "unfinished"])
def test_jobs_that_have_ended_are_not_read_by_the_queue(database, what):
    """Each of these is asked under the lock that every writer waits for; ended jobs grow into the thousands."""
    queries = {
        "claim": lambda connection: claim(connection, "w"),
        "standing": standing_leases,
        "unfinished": lambda connection: unfinished(connection, "proj_1"),
    }
    asked = []
    listen(database.engine, "before_cursor_execute", lambda *given: asked.append(given[2:4]))
    with database.write() as connection:
        queries[what](connection)
        plans = [
            row[3]
            for statement, values in list(asked)
            if statement.startswith("SELECT")
            for row in connection.exec_driver_sql(f"explain query plan {statement}", values)
        ]
    assert plans
    assert not [plan for plan in plans if "jobs" in plan and "state=?" not in plan], plans


def test_after_three_attempts_a_job_is_given_up(database):
    with database.write() as connection:
        add(connection)
        for attempt in range(3):
            lease = claim(connection, "w")
            assert lease is not None, attempt
            (row,) = standing_leases(connection)
            assert release_lost(connection, row, 3)
        assert claim(connection, "w") is None
        row = connection.execute(select(JOBS)).one()
    assert (row.state, row.error["code"], row.worker) == ("failed", "worker_lost", None)


def test_a_shut_down_worker_costs_no_attempt(database):
    with database.write() as connection:
        name = add(connection)
        lease = claim(connection, "w")
        move(connection, name, "running", fence=lease.fence)
        give_back(connection, lease, 1, blamed=False, said="shut down")
        row = connection.execute(select(JOBS)).one()
    assert (row.state, row.attempts, row.worker) == ("queued", 0, None)


class JobMachine(RuleBasedStateMachine):
    """Everything that can happen to jobs, in any order."""

    @initialize()
    def start(self):
        import tempfile

        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.parts = make_parts(Path(self.folder.name))
        with self.parts.database.write() as connection:
            project(connection)
        self.states, self.leases = {}, []

    def teardown(self):
        if hasattr(self, "parts"):
            self.parts.database.close()
            self.folder.cleanup()

    def write(self):
        return self.parts.database.write()

    @rule()
    def create(self):
        with self.write() as connection:
            name = add(connection, "validating_files")
        self.states[name] = "validating_files"

    @rule()
    def claimed(self):
        with self.write() as connection:
            lease = claim(connection, f"w{len(self.leases)}")
        if lease is not None:
            self.leases.append(lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), to=st.sampled_from(["queued", "running", "succeeded", "failed"]))
    def worker_moves(self, data, to):
        lease = data.draw(st.sampled_from(self.leases))
        values = {"fine_tuned_model": f"ft:{lease.job}"} if to == "succeeded" else {}
        with self.write() as connection:
            held = holds(connection, lease)
            assert move(connection, lease.job, to, fence=lease.fence, **values) <= held

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def worker_beats(self, data):
        lease = data.draw(st.sampled_from(self.leases))
        with self.write() as connection:
            assert beat(connection, lease) == holds(connection, lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), blamed=st.booleans())
    def worker_gives_back(self, data, blamed):
        with self.write() as connection:
            give_back(connection, data.draw(st.sampled_from(self.leases)), 3, blamed=blamed, said="back")

    @rule()
    def crash(self):
        with self.write() as connection:
            for row in standing_leases(connection):
                release_lost(connection, row, 3)

    @precondition(lambda self: self.states)
    @rule(data=st.data(), to=st.sampled_from(["cancelled", "paused", "queued"]))
    def customer_moves(self, data, to):
        name = data.draw(st.sampled_from(list(self.states)))  # as made: their ids are other ones in every run
        with self.write() as connection:
            state = connection.execute(select(JOBS.c.state).where(JOBS.c.id == name)).scalar_one()
            if to != "queued" or state == "paused":
                move(connection, name, to)

    @invariant()
    def holds_together(self):
        if not hasattr(self, "parts"):
            return
        with self.parts.database.read() as connection:
            rows = connection.execute(select(JOBS)).all()
            events = connection.execute(select(EVENTS.c.created_at).order_by(EVENTS.c.seq)).scalars().all()
        for row in rows:
            before = self.states[row.id]
            # One rule may take two steps, such as a claim's end and a loss.
            reachable = {before} | EDGES[before] | {two for one in EDGES[before] for two in EDGES[one]}
            assert row.state in reachable, (before, row.state)
            assert before not in TERMINAL or row.state == before
            assert (row.finished_at is not None) == (row.state in TERMINAL)
            assert (row.fine_tuned_model is not None) == (row.state == "succeeded")
            assert row.worker is None or row.state in HELD
            self.states[row.id] = row.state
        assert events == sorted(events)


TestJobMachine = JobMachine.TestCase
TestJobMachine.settings = settings(max_examples=12, stateful_step_count=30, deadline=None)


class LongJobMachine(JobMachine):
    """The same for longer."""


TestLongJobMachine = pytest.mark.slow(LongJobMachine.TestCase)
TestLongJobMachine.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
