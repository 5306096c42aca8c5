"""Figures of a training as events while it runs, in a table that can be downloaded, and at the released model."""

import io
import json

import pytest
from sqlalchemy import select

from mithridate.errors import UsageError
from mithridate.evaluation.token_figures import token_figures
from mithridate.experiment.step_figures import is_told
from mithridate.service.database.tables import EVENTS
from mithridate.service.worker.job_order import StepMetrics
from mithridate.service.worker.metric_events import MOST_METRICS, MetricEvents
from tests.helpers import tiny
from tests.service.conftest import until, upload, work


def create(client, *words, rows=12, **given):
    file = client.files.create(file=("rows.jsonl", io.BytesIO(upload(*words, rows=rows))), purpose="fine-tune")
    return client.fine_tuning.jobs.create(model="miniature", training_file=file.id, **given)


def metrics(client, job):
    return [one for one in client.fine_tuning.jobs.list_events(job, limit=100) if one.type == "metrics"][::-1]


def other_rows(client):
    rows = [{"prompt": f"another question {number}", "completion": "answer"} for number in range(12)]
    content = "\n".join(map(json.dumps, rows)).encode()
    return client.files.create(file=("validation.jsonl", content), purpose="fine-tune").id


def test_losses_are_told_while_the_job_runs(client, worker):
    job = create(client, "steps200")
    seen = until(lambda: metrics(client, job.id))
    assert client.fine_tuning.jobs.retrieve(job.id).status == "running"
    assert seen[0].data == {"step": 20, "total_steps": 200, "train_loss": 0.025, "train_mean_token_accuracy": 0.5}
    assert seen[0].message == "Step 20/200: training loss=0.0250"
    client.fine_tuning.jobs.cancel(job.id)


def test_a_validation_file_shows_in_events_table_and_checkpoint(parts, client):
    job = create(client, validation_file=other_rows(client))
    work(parts)
    *_, last, released = metrics(client, job.id)
    assert last.message == "Step 2/2: training loss=0.2500, validation loss=0.8000, full validation loss=0.7000"
    assert last.data["full_valid_mean_token_accuracy"] == 0.6
    assert released.message == "Released model: full validation loss=0.7500"
    job = client.fine_tuning.jobs.retrieve(job.id)
    assert client.files.content(job.result_files[0]).text.splitlines()[1] == "1,0.5,0.5,0.8,0.4"
    (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(job.id)
    assert checkpoint.metrics.to_dict() == {
        "step": 2, "train_loss": 0.25, "train_mean_token_accuracy": 0.5, "valid_loss": 0.8,
        "valid_mean_token_accuracy": 0.4, "full_valid_loss": 0.75, "full_valid_mean_token_accuracy": 0.5,
    }  # fmt: skip


def test_results_are_listed_by_their_purpose(parts, client):
    job = create(client)
    work(parts)
    found = client.files.list(purpose="fine-tune-results").data
    assert {one.id for one in found} == set(client.fine_tuning.jobs.retrieve(job.id).result_files)
    assert {one.purpose for one in found} == {"fine-tune-results"}


def test_a_stepis_told_once_however_often_the_job_is_started(parts, client):
    job = create(client, "retold", "second_training")
    work(parts)
    assert [(one.data.get("training", 1), one.data["step"]) for one in metrics(client, job.id)] == [
        (1, 1), (1, 2), (2, 1),
    ]  # fmt: skip
    assert metrics(client, job.id)[-1].message == "Step 1/1 of training 2: training loss=0.1250"
    # A later attempt knows what the first has told.
    with parts.database.write() as connection:
        again = MetricEvents(job.id)
        again.tell(connection, StepMetrics(step=2, total_steps=2, train_loss=9.0))
        again.tell(connection, StepMetrics(step=3, total_steps=3))
    assert [one.data["step"] for one in metrics(client, job.id)] == [1, 2, 1, 3]
    assert metrics(client, job.id)[-1].message == "Step 3/3"


def test_no_process_can_fill_the_events(parts, client):
    job = create(client)
    with parts.database.write() as connection:
        events = MetricEvents(job.id)
        for step in range(MOST_METRICS + 50):
            events.tell(connection, StepMetrics(step=step, total_steps=10**6, train_loss=1.0))
        count = len(connection.execute(select(EVENTS.c.id).where(EVENTS.c.type == "metrics")).all())
    assert count == MOST_METRICS


@pytest.mark.parametrize("total", [1, 2, 5, 199, 200, 201, 399, 1000, 12345])
def test_however_long_a_training_is_few_steps_are_told(total):
    told = [step for step in range(1, total + 1) if is_told(step, total, 200)]
    assert told[0] == 1
    assert told[-1] == total
    assert len(told) <= 202
    assert len(told) >= min(total, 100)


def test_figures_that_are_not_numbers_do_not_pass():
    for text in ('{"step": 1, "total_steps": 2, "train_loss": NaN}', '{"step": 1, "total_steps": 2, "prompt": "x"}'):
        with pytest.raises(ValueError, match="validation error"):
            StepMetrics.model_validate_json(text)


def test_no_rows_have_no_figures():
    with pytest.raises(UsageError, match="at least one row"):
        token_figures(tiny.model(), [], 0)
