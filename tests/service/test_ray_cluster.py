"""Jobs on a real Ray cluster on loopback, through its own Jobs interface."""

import json
import os
import signal
import sys
import threading
import time

import pytest
import yaml

from mithridate.service.worker.confinement import available
from mithridate.service.worker.job_process import LOG, record_of
from mithridate.service.worker.policy_preparation import prepare
from mithridate.service.worker.ray_process import RayJobs
from mithridate.service.worker.worker_loop import JobWorker
from tests.experiment.conftest import world  # noqa: F401  # a fixture
from tests.helpers.ray_nodes import LocalCluster
from tests.provider.conftest import policy  # noqa: F401  # a fixture
from tests.service.conftest import Server, make_parts, new_key, until
from tests.service.processes import FAKE
from tests.service.test_crashes import create, state, weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'ray[default]')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_JOB_START_TIMEOUT_SECONDS", "20")  # in place of 15 minutes
        made = LocalCluster(dashboard=True)
    made.add()
    yield made
    made.close()


@pytest.fixture
def engine(cluster):
    return {"kind": "ray", "address": cluster.url, "python": sys.executable, "patience": 10}


@pytest.fixture
def parts(tmp_path, engine):
    return make_parts(tmp_path / "service", engine=engine)


@pytest.fixture
def client(parts):
    server = Server(parts)
    yield server.client(new_key(parts))
    server.close()


@pytest.fixture
def working(parts):
    """Two workers, where the cluster takes one job."""
    made = [JobWorker(parts, FAKE) for _ in range(2)]
    threads = [threading.Thread(target=one.work, daemon=True) for one in made]
    for thread in threads:
        thread.start()
    yield
    for one in made:
        one.stop.set()
    for thread in threads:
        thread.join(30)


def pids(parts, job):
    path = parts.settings.jobs_folder / job / "out" / "attempts"
    return [int(line) for line in path.read_text().split()] if path.is_file() else []


def test_an_upload_becomes_a_model_on_the_cluster(engine, world, policy, tmp_path_factory):  # noqa: F811
    """The provider's own pipeline, confined; the weights are those of a job on the worker's machine."""
    folder = tmp_path_factory.mktemp("real")  # on the disk: a confined process may use what lies in memory
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy), encoding="utf-8")
    common = {
        "policy": folder / "policy.yaml",
        "models": {"tiny": str(world / "model")},
        "process": {"sandbox": "required" if available() else "off"},
    }
    released = []
    for name, where in (("cluster", engine), ("local", {"kind": "local"})):
        parts = make_parts(folder / name, engine=where, **common)
        assert prepare(parts) is None  # the judges' self-test, and what the policy reads
        server = Server(parts)
        client = server.client(new_key(parts))
        file = client.files.create(file=("rows.jsonl", (world / "user.jsonl").read_bytes()), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, seed=3).id
        JobWorker(parts).work(until_idle=True)
        job = client.fine_tuning.jobs.retrieve(job)
        log = (parts.settings.jobs_folder / job.id / LOG).read_text()
        assert (job.status, job.error) == ("succeeded", None), log
        decision = json.loads(client.files.content(job.result_files[1]).read())
        released.append(decision["files"])
        server.close()
    assert released[0] == released[1]


def test_a_killed_process_is_started_again_and_the_weights_are_the_same(parts, client, working):
    plain, job = create(client, "steps40"), create(client, "steps60")
    until(lambda: state(parts, job).steps_done > 5, 120)
    os.kill(pids(parts, job)[-1], signal.SIGKILL)
    again = create(client, "steps60")
    for one in (plain, job, again):
        until(lambda one=one: state(parts, one).state == "succeeded", 120)
    assert [state(parts, one).attempts for one in (plain, job, again)] == [1, 2, 1]
    assert weights(parts, job) == weights(parts, again)
    assert not record_of(parts.settings.jobs_folder / job).exists()


def test_a_cancelled_job_is_ended_on_the_cluster(parts, client, working):
    job = create(client, "steps5000")
    until(lambda: state(parts, job).steps_done > 0, 120)
    (pid,) = pids(parts, job)
    client.fine_tuning.jobs.cancel(job)
    until(lambda: not _alive(pid), 30)
    assert state(parts, job).state == "cancelled"
    until(lambda: not record_of(parts.settings.jobs_folder / job).exists(), 30)


def test_a_job_waits_for_room_and_one_that_is_cancelled_meanwhile_never_runs(parts, client, working):
    first = create(client, "steps5000")
    until(lambda: state(parts, first).steps_done > 0, 120)
    waiting = create(client, "steps5")
    jobs = RayJobs(parts.settings.engine)
    until(lambda: (jobs.found(f"{waiting}-1") or {}).get("status") == "PENDING", 60)
    client.fine_tuning.jobs.cancel(waiting)
    time.sleep(2)
    client.fine_tuning.jobs.cancel(first)
    until(lambda: jobs.found(f"{waiting}-1")["status"] in ("STOPPED", "FAILED", "SUCCEEDED"), 120)
    assert pids(parts, waiting) == []
    assert state(parts, waiting).state == "cancelled"
    last = create(client, "steps5")
    until(lambda: state(parts, last).state == "succeeded", 120)


def test_a_job_that_finds_no_room_for_long_costs_no_attempt(parts, client, working):
    first = create(client, "steps5000")
    until(lambda: state(parts, first).steps_done > 0, 120)
    waiting = create(client, "steps5")
    jobs = RayJobs(parts.settings.engine)
    until(lambda: (jobs.found(f"{waiting}-1") or {}).get("status") == "FAILED", 120)
    assert jobs.found(f"{waiting}-1")["error_type"] == "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"
    client.fine_tuning.jobs.cancel(first)
    until(lambda: state(parts, waiting).state == "succeeded", 120)
    assert state(parts, waiting).attempts == 1


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
