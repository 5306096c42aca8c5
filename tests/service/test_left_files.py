"""What a job's process leaves behind is never more than its own files, whatever links it makes."""

import json
import os
import socket
import subprocess

import psutil
import pytest

from mithridate.service.worker.job_order import FAILURE, ORDER, OUTCOME, PROGRESS, TRAINING, read_outcome
from mithridate.service.worker.job_process import LOG, JobProcess, end_earlier, record_of
from mithridate.service.worker.left_files import drop_links, has_own_folder, own_bytes, own_log
from tests.service.conftest import upload, work
from tests.service.processes import FAKE
from tests.service.test_crashes import create, state


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "first-key"
    path.write_text("secret")
    return path


def test_a_plain_file_is_read_and_nothing_else(tmp_path, secret):
    folder = tmp_path / "job"
    (folder / "out" / "model").mkdir(parents=True)
    (folder / "out" / "decision.json").write_text("{}")
    assert own_bytes(folder, "out/decision.json") == b"{}"
    assert has_own_folder(folder, "out/model")
    (folder / "linked").symlink_to(secret)
    (folder / "away").symlink_to(folder / "out")
    (folder / "elsewhere").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    for name in ("linked", "elsewhere/first-key", "away/decision.json", "pipe", "out", "none", "none/none"):
        assert own_bytes(folder, name) is None, name
    for name in ("away", "away/model", "elsewhere", "linked", "pipe", "none"):
        assert not has_own_folder(folder, name), name
    with pytest.raises(OSError, match="symbolic links"):
        own_log(folder / "linked")
    drop_links(folder)
    assert [path.name for path in folder.iterdir()] == ["out"]
    assert secret.read_text() == "secret"


@pytest.mark.parametrize("name", [TRAINING, LOG, PROGRESS, OUTCOME, FAILURE, f"{ORDER}.part"])
def test_a_link_that_an_earlier_attempt_left_leads_no_write_elsewhere(parts, client, secret, name):
    job = create(client)
    folder = parts.settings.jobs_folder / job
    folder.mkdir(parents=True)
    (folder / name).symlink_to(secret)
    work(parts)
    assert state(parts, job).state == "succeeded"
    assert secret.read_text() == "secret"


def test_results_that_are_links_are_not_kept(parts, client, server, key):
    job = create(client, "linked_results")
    work(parts)
    found = client.fine_tuning.jobs.retrieve(job)
    assert found.status == "succeeded"
    assert [client.files.retrieve(name).filename for name in found.result_files] == ["step_metrics.csv"]
    with server.http(key) as http:
        for name in ("report", "decision"):
            answer = http.get(f"/v1/fine_tuning/jobs/{job}/{name}")
            assert answer.status_code == 404, answer.text


def test_a_model_behind_a_link_is_not_released(parts, client):
    job = create(client, "linked_model")
    work(parts)
    row = state(parts, job)
    assert (row.state, row.error["code"], row.fine_tuned_model) == ("failed", "model_integrity", None)


def test_an_outcome_or_progress_that_is_a_link_is_none(parts, client, tmp_path, secret):
    (tmp_path / OUTCOME).symlink_to(secret)
    assert read_outcome(tmp_path) is None
    job = create(client, "linked_progress")
    work(parts)
    assert state(parts, job).error["code"] == "worker_lost"


def test_a_file_is_copied_out_beside_a_link_and_not_through_it(parts, client, tmp_path, secret):
    name = client.files.create(file=("rows.jsonl", upload()), purpose="fine-tune").id
    target = tmp_path / "target"
    target.symlink_to(secret)
    parts.blobs.copy_out(name, target)
    assert (target.read_bytes(), secret.read_text()) == (upload(), "secret")


def test_a_process_whose_record_cannot_be_written_does_not_go_on(parts, tmp_path, monkeypatch):
    from mithridate.service.worker import job_process

    started = []

    def full(path, record):
        started.append(record["pid"])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job_process, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        JobProcess(tmp_path, FAKE, parts.settings.process)
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


def test_a_job_cannot_name_the_process_that_is_killed_for_it(tmp_path):
    """What an earlier attempt left running is ended; its record lies where the job cannot write."""
    folder = tmp_path / "job"
    folder.mkdir()
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        forged = {"host": socket.gethostname(), "pid": other.pid, "started": psutil.Process(other.pid).create_time()}
        (folder / "process.json").write_text(json.dumps(forged))
        end_earlier(folder)
        assert other.poll() is None
        record_of(folder).write_text(json.dumps(forged))
        end_earlier(folder)
        # Our own child, so whoever waits first takes its status; that it is gone is what counts.
        assert not psutil.pid_exists(other.pid)
        assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []
    finally:
        other.kill()
    assert folder not in record_of(folder).parents
