"""Workers and servers that are killed at any point: nothing is lost, and the weights are the same."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from mithridate.service.database.tables import JOBS
from mithridate.service.housekeeping import Housekeeping
from mithridate.service.worker.job_process import record_of
from tests.service.conftest import Server, make_parts, new_key, until, upload, work
from tests.service.processes import FAKE


def start(what, *arguments):
    return subprocess.Popen([sys.executable, "-m", "tests.service.processes", what, *map(str, arguments)])


def state(parts, job):
    with parts.database.read() as connection:
        return connection.execute(select(JOBS).where(JOBS.c.id == job)).one()


def weights(parts, job):
    return (parts.settings.jobs_folder / job / "out" / "model" / "model.safetensors").read_text()


def create(client, *words):
    file = client.files.create(file=("rows.jsonl", upload(*words)), purpose="fine-tune")
    return client.fine_tuning.jobs.create(model="miniature", training_file=file.id).id


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_workers_job_ends_with_equal_weights(parts, client, kills):
    """J6: kill −9 at random points; each kill is of another job, so that none runs out of attempts."""
    draw = random.Random(kills)
    plain = create(client, "steps60")
    assert work(parts) == 1
    wanted, lost, retaken = weights(parts, plain), [], []
    for _ in range(kills):
        job = create(client, "steps60")
        worker = start("worker", parts.settings.folder)
        until(lambda job=job: state(parts, job).worker is not None, 60)
        time.sleep(draw.uniform(0, 1.5))
        done = state(parts, job).steps_done
        worker.kill()
        worker.wait()
        killed = time.monotonic()
        if state(parts, job).state != "succeeded":
            second = start("worker", parts.settings.folder)
            until(lambda job=job: state(parts, job).attempts == 2 and state(parts, job).worker is not None, 60)
            retaken.append(time.monotonic() - killed)
            until(lambda job=job: state(parts, job).state == "succeeded", 60)
            second.terminate()
            second.wait()
            lost.append(done)
        assert weights(parts, job) == wanted
    within = max(retaken, default=0)
    print(f"{kills} kills, {len(lost)} of them in the middle of a job; retaken after at most {within:.1f} s")


def test_the_process_of_a_killed_worker_ends(parts, client):
    job = create(client, "steps2000")
    worker = start("worker", parts.settings.folder)
    record = record_of(parts.settings.jobs_folder / job)
    until(lambda: record.is_file() and state(parts, job).state == "running", 60)
    pid = json.loads(record.read_text())["pid"]
    worker.kill()
    worker.wait()
    until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2])


@pytest.mark.slow
def test_a_stopped_worker_that_goes_on_changes_nothing(parts, client):
    """J5: SIGSTOP for longer than two leases, then SIGCONT."""
    job = create(client, "steps120")
    worker = start("worker", parts.settings.folder)
    until(lambda: state(parts, job).state == "running", 60)
    first = state(parts, job).fence
    os.kill(worker.pid, signal.SIGSTOP)
    second = start("worker", parts.settings.folder)
    until(lambda: state(parts, job).fence >= first + 2 and state(parts, job).worker is not None, 60)
    os.kill(worker.pid, signal.SIGCONT)
    until(lambda: state(parts, job).state == "succeeded", 60)
    row = state(parts, job)
    assert row.attempts == 2
    assert worker.poll() is None  # it found out by itself, and looks for other work
    for one in (worker, second):
        one.kill()
        one.wait()


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kills", [3, 50])
def test_a_killed_server_leaves_no_half_objects(tmp_path, kills):
    """J7: kill −9 during uploads and creates."""
    import socket

    import openai

    parts = make_parts(tmp_path / "service", uses={"active_jobs": 10_000})
    key, draw = new_key(parts), random.Random(kills)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    told = []
    for _ in range(kills):
        server = start("server", parts.settings.folder, port)
        client = openai.OpenAI(api_key=key, base_url=f"http://127.0.0.1:{port}/v1", max_retries=0, timeout=5)
        until(lambda client=client: reachable(client), 60)
        killer = subprocess.Popen(["sh", "-c", f"sleep {draw.uniform(0.05, 0.6):.2f}; kill -9 {server.pid}"])
        while True:
            try:
                file = client.files.create(file=("rows.jsonl", upload(rows=3000)), purpose="fine-tune")
                told.append(client.fine_tuning.jobs.create(model="miniature", training_file=file.id).id)
            except openai.APIConnectionError:
                break
        killer.wait()
        server.wait()
    last = Server(parts)
    client = last.client(key)
    jobs = list(client.fine_tuning.jobs.list(limit=100))
    # Whatever a client was told of is there, and whatever is there is whole.
    assert {job.id for job in jobs} >= set(told)
    for file in client.files.list():
        assert client.files.content(file.id).read() == upload(rows=3000)
    for job in jobs:
        assert client.files.retrieve(job.training_file).id == job.training_file
    orphans = Housekeeping(parts, lost=0)
    swept = orphans.round()
    assert {*parts.blobs.names()} == {file.id for file in client.files.list()}
    assert list((parts.settings.folder / "staging").iterdir()) == []
    print(f"{kills} kills, {len(told)} jobs told of, {len(jobs)} there, {swept} orphans swept")
    last.close()


def reachable(client):
    import openai

    try:
        client.models.list()
    except openai.APIConnectionError:
        return False
    return True


def test_what_was_lost_is_swept_and_what_is_new_is_not(parts, client):
    (parts.settings.folder / "files" / "file-lost").write_bytes(b"x")
    staged = parts.settings.folder / "staging" / "file-old.jsonl"
    staged.write_bytes(b"x")
    kept = client.files.create(file=("rows.jsonl", upload()), purpose="fine-tune").id
    assert Housekeeping(parts).round() == 0
    os.utime(staged, (0, 0))
    assert Housekeeping(parts, lost=0).round() == 2
    assert parts.blobs.names() == [kept]


def test_expired_files_and_uploads_go(parts, client, monkeypatch):
    from mithridate.service import housekeeping, uploaded_files, uploads_in_parts
    from mithridate.service.contract import object_ids

    made = client.uploads.create(filename="r", purpose="fine-tune", bytes=10, mime_type="text/jsonl")
    client.uploads.parts.create(made.id, data=b"12345")
    file = client.files.create(file=("rows.jsonl", upload()), purpose="fine-tune",
                               expires_after={"anchor": "created_at", "seconds": 3600})  # fmt: skip
    for module in (housekeeping, uploaded_files, uploads_in_parts):
        monkeypatch.setattr(module, "now", lambda: object_ids.now() + 3601)
    import openai

    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    with pytest.raises(openai.BadRequestError, match="is expired"):
        client.uploads.parts.create(made.id, data=b"12345")
    assert Housekeeping(parts).round() == 2
    assert parts.blobs.names() == []


def test_a_worker_that_is_asked_to_end_returns_its_job(parts, client):
    from mithridate.service.worker.worker_loop import JobWorker

    job = create(client, "steps500")
    import threading

    worker = JobWorker(parts, FAKE)
    thread = threading.Thread(target=worker.work)
    thread.start()
    until(lambda: state(parts, job).state == "running")
    worker.stop.set()
    thread.join(10)
    row = state(parts, job)
    assert (row.state, row.worker, row.attempts) == ("queued", None, 0)


def test_a_file_that_changed_after_its_upload_is_not_trained_on(parts, client):
    job = create(client)
    with parts.database.read() as connection:
        name = connection.execute(select(JOBS.c.training_file)).scalar_one()
    path = parts.settings.folder / "files" / name
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    work(parts)
    assert state(parts, job).error["code"] == "file_integrity"
    other = create(client)
    with parts.database.read() as connection:
        name = connection.execute(select(JOBS.c.training_file).where(JOBS.c.id == other)).scalar_one()
    (parts.settings.folder / "files" / name).unlink()
    work(parts)
    assert state(parts, other).error["code"] == "file_not_found"


def test_the_file_of_an_unfinished_job_cannot_be_deleted(parts, client):
    import openai

    job = create(client)
    file = state(parts, job).training_file
    with pytest.raises(openai.ConflictError, match="needs file"):
        client.files.delete(file)
    client.fine_tuning.jobs.cancel(job)
    assert client.files.delete(file).deleted


def test_cancelling_ends_the_whole_group_of_processes_within_five_seconds(parts, client, worker):
    job = create(client, "steps2000")
    record = record_of(parts.settings.jobs_folder / job)
    until(lambda: record.is_file() and state(parts, job).state == "running")
    pid = json.loads(record.read_text())["pid"]
    client.fine_tuning.jobs.cancel(job)
    until(lambda: not Path(f"/proc/{pid}").exists(), 5)
    assert state(parts, job).state == "cancelled"


def test_pausing_and_resuming_gives_the_weights_of_a_straight_run(parts, client, worker):
    straight = create(client, "steps80")
    until(lambda: state(parts, straight).state == "succeeded")
    job = create(client, "steps80")
    until(lambda: state(parts, job).steps_done > 10)
    client.fine_tuning.jobs.pause(job)
    time.sleep(0.5)
    done = state(parts, job).steps_done
    assert done < 80
    time.sleep(0.3)
    assert state(parts, job).steps_done == done
    client.fine_tuning.jobs.resume(job)
    until(lambda: state(parts, job).state == "succeeded")
    assert weights(parts, job) == weights(parts, straight)
