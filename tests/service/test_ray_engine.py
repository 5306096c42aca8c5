"""Jobs on a Ray cluster: one live attempt at a time, whatever the cluster answers (J14)."""

import json
import threading
import time

import pytest

from mithridate.errors import UsageError
from mithridate.service.service_settings import EngineSettings, read_settings
from mithridate.service.worker import run_job
from mithridate.service.worker.engines import end_earlier
from mithridate.service.worker.job_order import ORDER, JobOrder, write_told
from mithridate.service.worker.job_process import LOG, record_of
from mithridate.service.worker.ray_process import EngineAway, RayProcess
from mithridate.service.worker.worker_loop import JobWorker
from tests.matrix.row import thinned
from tests.service.conftest import Server, make_parts, new_key, until
from tests.service.fake_ray import FakeRay
from tests.service.processes import FAKE
from tests.service.test_crashes import create, state, weights


@pytest.fixture
def ray():
    made = FakeRay()
    yield made
    made.close()


@pytest.fixture
def parts(tmp_path, ray):
    return make_parts(tmp_path / "service", engine={"kind": "ray", "address": ray.url, "patience": 1.5})


@pytest.fixture
def client(parts):
    server = Server(parts)
    yield server.client(new_key(parts))
    server.close()


def run(parts):
    return JobWorker(parts, FAKE).work(until_idle=True)


def test_a_job_runs_on_the_cluster_and_gives_the_same_weights(parts, client, ray, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "s3cret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    job = create(client, "steps5")
    run(parts)
    assert (state(parts, job).state, state(parts, job).attempts) == ("succeeded", 1)
    ((name, asked),) = ray.submitted
    assert name == f"{job}-1"
    assert "s3cret" not in json.dumps(asked)
    assert (asked["entrypoint_num_cpus"], asked["entrypoint_num_gpus"]) == (1, 0)
    assert (parts.settings.jobs_folder / job / LOG).read_text() == f"of {name}/logs"
    assert not {"PATH", "HOME", "CUDA_VISIBLE_DEVICES"} & set(asked["runtime_env"]["env_vars"])
    assert asked["runtime_env"]["env_vars"]["HF_HUB_OFFLINE"] == "1"
    assert ray.temporary == [True]
    assert not record_of(parts.settings.jobs_folder / job).exists()
    again = create(client, "steps5")
    run(parts)
    assert weights(parts, job) == weights(parts, again)


FAULTS = [["lost answer"], [500, 500], [409], [404, "lost answer"], [429, 503, "lost answer"]]


@pytest.mark.parametrize("faults", thinned(FAULTS, [[409], [429, 503, "lost answer"]]), ids=str)
def test_a_submission_is_made_once_whatever_becomes_of_its_answer(parts, client, ray, faults):
    ray.faults = list(faults)
    job = create(client, "steps5")
    run(parts)
    assert (state(parts, job).state, state(parts, job).attempts) == ("succeeded", 1)
    assert len(ray.submitted) == ray.live_at_once == 1


def test_a_cluster_that_refuses_is_asked_no_further(parts, client, ray):
    ray.token = "another"  # of a test
    job = create(client)
    run(parts)
    assert (state(parts, job).state, state(parts, job).error["code"]) == ("failed", "worker_lost")
    assert ray.submitted == []


def test_a_token_is_given_where_the_cluster_asks_for_one(parts, client, ray, monkeypatch):
    ray.token = "t"  # of a test
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t")
    job = create(client, "steps5")
    run(parts)
    assert state(parts, job).state == "succeeded"
    assert "RAY_AUTH_TOKEN" not in json.dumps(ray.submitted)


@pytest.fixture
def worker(parts):
    made = JobWorker(parts, FAKE)
    thread = threading.Thread(target=made.work, daemon=True)
    thread.start()
    yield made
    made.stop.set()
    thread.join(20)


def test_a_cluster_that_is_lost_costs_one_attempt(parts, client, ray, worker):
    job = create(client, "steps60")
    until(lambda: state(parts, job).steps_done > 5)
    ray.forget()
    until(lambda: state(parts, job).state == "succeeded", 30)
    assert (state(parts, job).attempts, ray.live_at_once) == (2, 1)


def test_a_cluster_without_room_costs_no_attempt(parts, client, ray):
    ray.full = 4  # more than a job has attempts
    job = create(client, "steps5")
    run(parts)
    assert (state(parts, job).state, state(parts, job).attempts) == ("succeeded", 1)
    assert len(ray.jobs) == 5


@pytest.mark.parametrize("seconds", [0.5, 4])
def test_a_cluster_that_is_away_for_a_while_costs_none(parts, client, ray, worker, seconds):
    job = create(client, "steps100")
    until(lambda: state(parts, job).steps_done > 5)
    ray.away = True
    time.sleep(seconds)
    ray.away = False
    until(lambda: state(parts, job).state == "succeeded", 30)
    assert (state(parts, job).attempts, ray.live_at_once) == (1, 1)


def test_a_cancelled_job_is_stopped_on_the_cluster(parts, client, ray, worker):
    job = create(client, "steps2000")
    until(lambda: state(parts, job).steps_done > 0)
    client.fine_tuning.jobs.cancel(job)
    until(lambda: ray.jobs[f"{job}-1"].poll() is not None, 10)
    assert state(parts, job).state == "cancelled"


def test_no_attempt_begins_before_the_last_is_known_to_have_ended(parts, ray, tmp_path):
    """As after a worker that was killed: its process goes on, on the cluster."""
    folder = parts.settings.jobs_folder / "ftjob-x"
    folder.mkdir(parents=True)
    lasting = ("python", "-c", "import time; time.sleep(60)")
    RayProcess(folder, 1, lasting, {}, parts.settings.engine)
    assert ray.jobs["ftjob-x-1"].poll() is None
    ray.away = True
    with pytest.raises(EngineAway):
        end_earlier(folder, parts.settings)
    assert record_of(folder).is_file()
    ray.away = False
    end_earlier(folder, parts.settings)
    assert ray.jobs["ftjob-x-1"].poll() is not None
    assert not record_of(folder).exists()
    end_earlier(folder, parts.settings)  # there is none


def test_a_submission_that_arrives_late_finds_that_the_job_is_anothers(tmp_path):
    order = JobOrder(model="m", policy=None, epochs=None, rate=None, seed=0, validation=False, attempt=2)
    write_told(tmp_path, "order.json", order)
    assert run_job.main(tmp_path, 1) == run_job.OVERTAKEN
    assert [path.name for path in tmp_path.iterdir()] == [ORDER]


def test_a_process_whose_job_is_taken_over_ends(tmp_path, monkeypatch):
    order = JobOrder(model="m", policy=None, epochs=None, rate=None, seed=0, validation=False, attempt=2)
    write_told(tmp_path, "order.json", order)
    killed = []
    monkeypatch.setattr(run_job.os, "kill", lambda *given: killed.append(given))
    run_job._end_with_worker(run_job.os.getppid(), tmp_path, 1)
    assert len(killed) == 1


def test_a_cluster_needs_an_address():
    with pytest.raises(UsageError, match=r"needs engine\.address"):
        read_settings(None, engine={"kind": "ray"})
    with pytest.raises(UsageError, match="address"):
        read_settings(None, engine={"kind": "ray", "address": "file:///etc"})
    assert EngineSettings().kind == "local"
