"""A disk that is full: refused in words, nothing half left, everything sound once there is room again (J9)."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import openai
import pytest
import yaml
from benchmarks.kills import bytes_of, state_of
from safetensors import SafetensorError
from sqlalchemy import select

import mithridate as mi
from mithridate.errors import JudgeError, MithridateError
from mithridate.files import disk_was_full
from mithridate.provider.decision import read_decision
from mithridate.service.database.tables import JOBS
from mithridate.service.worker import pipeline_run, run_job
from mithridate.service.worker.job_order import FAILURE, STORAGE_FULL, JobOrder, write_told
from mithridate.service.worker.worker_loop import JobWorker
from tests.experiment.conftest import world  # noqa: F401  # a fixture
from tests.provider.conftest import policy  # noqa: F401  # a fixture
from tests.service.conftest import Server, make_parts, new_key, upload, work
from tests.service.test_crashes import create, state
from tests.service.test_worker_loop import full


@pytest.fixture
def disk(tmp_path):
    """A disk of 64 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], capture_output=True)
    if made.returncode:
        pytest.skip(f"a disk of its own cannot be mounted: {made.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk, left=0):
    """Take all the room but some kilobytes; return the file that takes it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        while (free := shutil.disk_usage(disk).free - (left << 10)) > 0:
            file.write(b"\0" * min(free, 1 << 20))
    return ballast


def test_an_upload_that_finds_no_room_leaves_nothing(disk):
    parts = make_parts(disk / "service")
    with closing(Server(parts)) as server:
        client = server.client(new_key(parts))
        kept = client.files.create(file=("rows.jsonl", upload()), purpose="fine-tune")
        pending = client.uploads.create(filename="r", purpose="fine-tune", bytes=10**6, mime_type="text/jsonl")
        ballast = fill(disk, left=512)
        for call in (
            lambda: client.files.create(file=("rows.jsonl", upload(rows=20_000)), purpose="fine-tune"),
            lambda: client.uploads.parts.create(pending.id, data=b"a" * 10**6),
        ):
            with pytest.raises(openai.InternalServerError) as raised:
                call()
            assert raised.value.status_code == 507
            assert raised.value.body["code"] == "storage_full"
        assert list((disk / "service" / "staging").iterdir()) == []
        assert [file.id for file in client.files.list()] == parts.blobs.names() == [kept.id]
        ballast.unlink()
        big = client.files.create(file=("rows.jsonl", upload(rows=20_000)), purpose="fine-tune")
        assert big.status == "processed"
        assert parts.audit.verify(parts.database) > 0


def created_until_full(client, file):
    """Create jobs in the room that is left within the database's own files; return how many there were."""
    for number in range(1000):
        try:
            client.fine_tuning.jobs.create(model="miniature", training_file=file, metadata={"n": str(number)})
        except openai.InternalServerError as error:
            assert error.status_code == 503  # noqa: PT017  # how many were made is asked for too
            return number
    raise AssertionError("the database never ran out of room")


def test_a_database_without_room_stays_sound(disk):
    parts = make_parts(disk / "service")
    with closing(Server(parts)) as server:
        client = server.client(new_key(parts))
        file = client.files.create(file=("rows.jsonl", upload()), purpose="fine-tune").id
        ballast = fill(disk)
        made = created_until_full(client, file)
        assert len(list(client.fine_tuning.jobs.list(limit=100))) == made
        ballast.unlink()
        client.fine_tuning.jobs.create(model="miniature", training_file=file, metadata={"n": "last"})
        with parts.database.read() as connection:
            assert connection.exec_driver_sql("pragma integrity_check").scalar_one() == "ok"
        assert parts.audit.verify(parts.database) > made


def test_a_worker_that_has_no_room_for_a_job_says_so_in_the_end(parts, client, monkeypatch):
    job = create(client)
    monkeypatch.setattr(parts.blobs, "copy_out", full)
    assert work(parts) == 3
    error = state(parts, job).error
    assert (error["code"], "made room" in error["message"]) == ("storage_full", True)


def test_a_job_that_cannot_even_write_down_its_failure_is_understood(parts, client):
    job = create(client)
    JobWorker(parts, ("sh", "-c", f"exit {STORAGE_FULL}")).work(until_idle=True)
    assert state(parts, job).error["code"] == "storage_full"
    with parts.database.read() as connection:
        assert connection.execute(select(JOBS.c.attempts)).scalar_one() == 1


def raised_from(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(28, "No space left on device"), "storage_full"),
        (OSError(122, "Disk quota exceeded"), "storage_full"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "storage_full"),
        (raised_from(MithridateError("not stored"), OSError(28, "No space left on device")), "storage_full"),
        (JudgeError("away"), "judge_unavailable"),
        (OSError(13, "Permission denied"), None),
        (RuntimeError("odd"), None),
    ],
    ids=str,
)
@pytest.mark.parametrize("room", [True, False])
def test_every_librarys_full_disk_is_told_apart_from_other_faults(tmp_path, monkeypatch, error, code, room):
    order = JobOrder(model="m", policy=None, epochs=None, rate=None, seed=0, validation=False)
    write_told(tmp_path, "order.json", order)

    def failed(*_):
        raise error

    monkeypatch.setattr(pipeline_run, "run_pipeline", failed)
    if not room:
        monkeypatch.setattr(run_job, "write_told", full)
    if code is None:
        with pytest.raises(type(error)):
            run_job.main(tmp_path)
        assert not (tmp_path / FAILURE).exists()
    elif room:
        assert run_job.main(tmp_path) == 1
        assert json.loads((tmp_path / FAILURE).read_text())["code"] == code
    else:
        assert run_job.main(tmp_path) == STORAGE_FULL


@pytest.mark.slow
def test_a_process_whose_log_cannot_be_written_tells_by_its_status(disk):
    folder = disk / "job"
    folder.mkdir()
    order = JobOrder(model=str(disk / "none"), policy=None, epochs=None, rate=None, seed=0, validation=False)
    write_told(folder, "order.json", order)
    (folder / "training.jsonl").write_bytes(upload())
    fill(disk)
    with (folder / "process.log").open("ab") as log:
        command = [sys.executable, "-m", "mithridate.service.worker.run_job", str(folder)]
        assert subprocess.run(command, stdout=log, stderr=log).returncode == STORAGE_FULL
    assert not (folder / FAILURE).exists()


def test_errors_that_name_each_other_are_walked_once():
    one, other = ValueError("a"), ValueError("b")
    one.__cause__, other.__cause__ = other, one
    assert not disk_was_full(one)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tuning_on_a_full_disk_goes_on_when_there_is_room(disk, world, policy, tmp_path):  # noqa: F811
    """At several points: no model without a decision, and the same bytes as without it."""
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(policy), encoding="utf-8")
    asked = (str(world / "model"), str(world / "user.jsonl"), str(file))
    whole = tmp_path / "whole"
    mi.tune(*asked, out=whole)
    size = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file()) >> 10
    met = 0
    for share in (0.1, 0.5, 0.9):
        out = disk / f"out-{share}"
        ballast = fill(disk, left=int(share * size))
        try:
            mi.tune(*asked, out=out)
        except (OSError, MithridateError, SafetensorError, RuntimeError) as error:
            assert disk_was_full(error), repr(error)  # noqa: PT017  # with much room it need not be raised
            met += 1
        state_of(out)  # fails where a model lies there without its decision
        ballast.unlink()
        mi.tune(*asked, out=out)
        assert read_decision(out).comparable == read_decision(whole).comparable
        assert bytes_of(out) == bytes_of(whole)
        shutil.rmtree(out)
    assert met >= 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_of_the_real_pipeline_without_room(disk, world, policy, tmp_path):  # noqa: F811
    (disk / "policy.yaml").write_text(yaml.safe_dump(policy), encoding="utf-8")
    models, process = {"tiny": str(world / "model")}, {"sandbox": "off"}
    database = f"sqlite:///{tmp_path / 'service.db'}"  # elsewhere: it could not even take the failure down
    given = {"policy": disk / "policy.yaml", "models": models, "process": process, "database": database}
    parts = make_parts(disk / "service", **given)
    rows = Path(world / "user.jsonl").read_bytes()
    with closing(Server(parts)) as server:
        client = server.client(new_key(parts))
        file = client.files.create(file=("rows.jsonl", rows), purpose="fine-tune").id
        job = client.fine_tuning.jobs.create(model="tiny", training_file=file).id
        ballast = fill(disk, left=120)
        JobWorker(parts).work(until_idle=True)
        assert state(parts, job).error["code"] == "storage_full"
        assert not os.path.exists(parts.settings.jobs_folder / job / "out" / "model")
        ballast.unlink()
        again = client.fine_tuning.jobs.create(model="tiny", training_file=file, suffix="again").id
        JobWorker(parts).work(until_idle=True)
        assert state(parts, again).state == "succeeded"
        with parts.database.read() as connection:
            assert connection.exec_driver_sql("pragma integrity_check").scalar_one() == "ok"
