"""A job from its upload to its end, through OpenAI's own clients."""

import asyncio
import io

import openai
import pytest

from mithridate.errors import DataError
from mithridate.service.worker.job_order import JobOutcome
from mithridate.service.worker.outcome_taken import _refusal
from mithridate.service.worker.run_job import failure_of
from tests.service.conftest import until, upload, work


def create(client, *words, **given):
    file = client.files.create(file=("rows.jsonl", io.BytesIO(upload(*words))), purpose="fine-tune")
    return client.fine_tuning.jobs.create(model="miniature", training_file=file.id, **given)


def test_a_released_model_ends_in_success(parts, client):
    job = create(client, suffix="my task", metadata={"team": "a"})
    assert (job.status, job.seed, job.object, job.error) == ("validating_files", 7, "fine_tuning.job", None)
    assert work(parts) == 1
    job = client.fine_tuning.jobs.retrieve(job.id)
    assert job.status == "succeeded"
    assert job.error is None
    assert job.fine_tuned_model == f"ft:miniature:local:my-task:{job.id[-8:]}"
    assert job.trained_tokens == 1234
    assert job.finished_at >= job.created_at
    assert job.decision["outcome"] == "released"
    assert job.metadata == {"team": "a"}
    names = [client.files.retrieve(name).filename for name in job.result_files]
    assert names == ["step_metrics.csv", "decision.json", "report.html"]
    assert client.files.content(job.result_files[0]).text == (
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n1,0.5,0.5,,\n2,0.25,0.5,,\n"
    )


@pytest.mark.parametrize(
    ("word", "code"), [("refused_at_upload", "upload_refused"), ("refused_at_release", "release_refused")]
)
def test_a_refusal_ends_in_failure_with_its_reasons(parts, client, word, code):
    job = create(client, word)
    work(parts)
    job = client.fine_tuning.jobs.retrieve(job.id)
    assert (job.status, job.fine_tuned_model) == ("failed", None)
    assert job.error.code == code
    assert "obedience: 1 of 12 rows" in job.error.message
    if code == "upload_refused":
        assert job.error.param == "training_file"
        assert "(line 3: 1 row flagged)" in job.error.message
        assert job.error.rows == [{"line": 3, "code": "obedience", "message": "obeys a harmful request"}]
        assert job.decision["findings"][0]["line"] == 3


@pytest.mark.parametrize(
    ("count", "said"), [(1, "(line 1: 1 row flagged)"), (3, "(lines 1, 2, 3: 3 rows flagged)"),
                        (11, "(lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, …: 11 rows flagged)")]
)  # fmt: skip
def test_a_refusal_counts_its_rows(count, said):
    found = [{"line": line, "signals": ["x"], "reason": "y"} for line in range(1, count + 1)]
    outcome = JobOutcome(
        outcome="refused_at_upload", reasons=["r"], released=None, policy={}, files={}, findings=found, flagged=count,
        trained_tokens=None, steps=[],
    )  # fmt: skip
    assert _refusal(outcome)["message"].endswith(said)


def test_an_operators_fault_is_not_laid_at_the_customers_door(tmp_path):
    """Rows of the policy that are also asked by its audit."""
    failure = failure_of(DataError("'safe' and 'audit' have the same prompt (row 3); remove it from one"), tmp_path)
    assert (failure.code, failure.param) == ("policy_error", None)
    assert "operator" in failure.message


def test_a_failure_of_the_judge_releases_nothing(parts, client):
    job = create(client, "fail")
    work(parts)
    job = client.fine_tuning.jobs.retrieve(job.id)
    assert (job.status, job.error.code, job.fine_tuned_model) == ("failed", "judge_unavailable", None)
    assert job.decision is None


def test_a_model_that_is_not_what_was_judged_is_not_released(parts, client):
    job = create(client, "swap")
    work(parts)
    job = client.fine_tuning.jobs.retrieve(job.id)
    assert (job.status, job.error.code, job.fine_tuned_model) == ("failed", "model_integrity", None)


def test_a_process_that_always_dies_is_given_up(parts, client):
    job = create(client, "die")
    assert work(parts) == 3
    job = client.fine_tuning.jobs.retrieve(job.id)
    assert (job.status, job.error.code, job.attempts) == ("failed", "worker_lost", 3)


def test_the_async_client_works_too(server, key, worker):
    async def story():
        async with openai.AsyncOpenAI(api_key=key, base_url=f"{server.url}/v1", max_retries=0) as client:
            file = await client.files.create(file=("rows.jsonl", upload()), purpose="fine-tune")
            job = await client.fine_tuning.jobs.create(model="miniature", training_file=file.id)
            for _ in range(300):
                job = await client.fine_tuning.jobs.retrieve(job.id)
                if job.status == "succeeded":
                    break
                await asyncio.sleep(0.05)
            return job, [event.message async for event in client.fine_tuning.jobs.list_events(job.id)]

    job, events = asyncio.run(story())
    assert job.status == "succeeded"
    assert events[-1].startswith("Created fine-tuning job")
    assert "Fine-tuning job started" in events


def test_a_job_can_be_cancelled_paused_and_resumed(client, worker):
    job = create(client, "steps200")
    running = lambda: client.fine_tuning.jobs.retrieve(job.id).status == "running"  # noqa: E731
    until(running)
    assert client.fine_tuning.jobs.pause(job.id).status == "paused"
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    until(running)
    ended = client.fine_tuning.jobs.cancel(job.id)
    assert ended.status == "cancelled"
    assert ended.finished_at is not None
    with pytest.raises(openai.BadRequestError, match="cancelled; one cannot pause it"):
        client.fine_tuning.jobs.pause(job.id)
