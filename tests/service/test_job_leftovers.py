"""Of a customer's rows and of weights that nobody judged nothing outlives the job, the file and the model."""

import pytest

from mithridate.service import housekeeping
from mithridate.service.contract import object_ids
from mithridate.service.worker.job_leftovers import drop_leftovers
from tests.service.conftest import until, upload, work
from tests.service.test_crashes import create, state


def leftovers(parts, job):
    folder = parts.settings.jobs_folder / job
    return [name for name in ("training.jsonl", "validation.jsonl", "out/work", "tmp") if (folder / name).exists()]


@pytest.mark.parametrize("word", ["released", "refused_at_upload", "fail", "die"])
def test_a_job_that_has_ended_keeps_no_rows(parts, client, word):
    other = client.files.create(file=("v.jsonl", upload(rows=3)), purpose="fine-tune").id
    file = client.files.create(file=("rows.jsonl", upload(word)), purpose="fine-tune").id
    job = client.fine_tuning.jobs.create(model="miniature", training_file=file, validation_file=other).id
    work(parts)
    assert state(parts, job).state in ("succeeded", "failed")
    assert leftovers(parts, job) == []
    if word == "released":
        assert (parts.settings.jobs_folder / job / "out" / "model" / "model.safetensors").is_file()
        assert client.files.content(file).read() == upload(word)


def test_a_cancelled_job_keeps_no_rows(parts, client, worker):
    job = create(client, "steps2000")
    until(lambda: state(parts, job).state == "running")
    assert leftovers(parts, job) == ["training.jsonl", "tmp"]
    client.fine_tuning.jobs.cancel(job)
    until(lambda: leftovers(parts, job) == [])


def test_a_job_that_goes_on_later_keeps_its_rows(parts, client, worker):
    job = create(client, "steps2000")
    until(lambda: state(parts, job).state == "running")
    client.fine_tuning.jobs.pause(job)
    worker.stop.set()
    until(lambda: state(parts, job).worker is None)
    assert leftovers(parts, job) == ["training.jsonl", "tmp"]


@pytest.mark.parametrize("how", ["file deleted", "file expired", "model deleted"])
def test_what_an_earlier_version_or_a_lost_worker_has_left_goes_with_its_object(parts, client, monkeypatch, how):
    given = {"expires_after": {"anchor": "created_at", "seconds": 3600}} if how == "file expired" else {}
    file = client.files.create(file=("rows.jsonl", upload()), purpose="fine-tune", **given).id
    job = client.fine_tuning.jobs.create(model="miniature", training_file=file).id
    work(parts)
    folder = parts.settings.jobs_folder / job
    (folder / "training.jsonl").write_bytes(upload())
    (folder / "out" / "work").mkdir()
    (folder / "out" / "work" / "model.safetensors").write_bytes(b"unjudged")
    if how == "file deleted":
        client.files.delete(file)
    elif how == "model deleted":
        client.models.delete(client.fine_tuning.jobs.retrieve(job).fine_tuned_model)
    else:
        monkeypatch.setattr(housekeeping, "now", lambda: object_ids.now() + 3601)
        assert housekeeping.Housekeeping(parts).round() == 1
    assert leftovers(parts, job) == []
    assert (folder / "out" / "decision.json").is_file()


def test_no_link_leads_the_removal_elsewhere(tmp_path):
    other, job = tmp_path / "other", tmp_path / "job"
    for folder in (other / "work", job):
        folder.mkdir(parents=True)
    (other / "work" / "model").write_text("another's")
    (job / "out").symlink_to(other)
    (job / "training.jsonl").symlink_to(other / "work" / "model")
    drop_leftovers(job)
    assert (other / "work" / "model").read_text() == "another's"
    assert not (job / "training.jsonl").is_symlink()
    drop_leftovers(tmp_path / "none")
