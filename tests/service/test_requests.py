"""Creating and listing jobs: once, within limits, page by page, and with errors in the contract's form."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest
from sqlalchemy import func, insert, select

from mithridate.service.contract.object_ids import new_id
from mithridate.service.database.tables import JOBS
from tests.service.conftest import Server, make_parts, new_key, until, upload


@pytest.fixture
def file(client):
    return client.files.create(file=("rows.jsonl", upload()), purpose="fine-tune").id


def jobs(parts):
    with parts.database.read() as connection:
        return connection.execute(select(func.count()).select_from(JOBS)).scalar_one()


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: ""}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"suffix": "s" * 65}, "suffix"),
        ({"suffix": "a\nb"}, "suffix"),
        ({"hyperparameters": {"n_epochs": 51}}, "n_epochs"),
        ({"hyperparameters": {"n_epochs": 11}}, "n_epochs"),
        ({"hyperparameters": {"batch_size": 8}}, "batch_size"),
        ({"hyperparameters": {"learning_rate_multiplier": 3.0}}, "learning_rate_multiplier"),
        ({"method": {"type": "dpo"}}, "method.type"),
        ({"method": {"type": "reinforcement"}}, "method.type"),
        ({"method": {"type": "supervised", "dpo": {}}}, "method"),
        ({"method": {"type": "dpo", "supervised": {}}}, "method"),
        ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 2.5}}}}, "beta"),
        ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0}}}}, "beta"),
        ({"method": {"type": "supervised", "supervised": {"hyperparameters": {"beta": 0.1}}}}, "beta"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations"),
        ({"model": "gpt-4o"}, "model"),
        ({"training_file": "file-nothere"}, "training_file"),
        ({"training_file": "../../etc/passwd"}, "training_file"),
        ({"validation_file": "file-nothere"}, "validation_file"),
        ({"seed": -1}, "seed"),
        ({"extra_body": {"unknown": 1}}, "unknown"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_parameter(parts, client, file, given, param):
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.jobs.create(**{"model": "miniature", "training_file": file, **given})
    error = refused.value.body
    assert param in error["param"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert jobs(parts) == 0


def test_what_the_policy_allows_is_taken(client, file):
    job = client.fine_tuning.jobs.create(
        model="miniature", training_file=file, seed=42,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 10, "batch_size": 16}}},
    )  # fmt: skip
    assert (job.seed, job.hyperparameters.n_epochs, job.method.type) == (42, 10, "supervised")


def test_fifty_creates_with_one_key_make_one_job(parts, client, file):
    def create(_):
        headers = {"Idempotency-Key": "one"}
        return client.fine_tuning.jobs.create(model="miniature", training_file=file, extra_headers=headers).id

    with ThreadPoolExecutor(50) as pool:
        assert len(set(pool.map(create, range(50)))) == 1
    assert jobs(parts) == 1
    with pytest.raises(openai.ConflictError):
        client.fine_tuning.jobs.create(
            model="miniature", training_file=file, suffix="other", extra_headers={"Idempotency-Key": "one"}
        )


def test_a_key_is_a_projects_own(parts, server, client, file):
    other = server.client(new_key(parts, "other"))
    other_file = other.files.create(file=("rows.jsonl", upload()), purpose="fine-tune").id
    headers = {"Idempotency-Key": "one"}
    first = client.fine_tuning.jobs.create(model="miniature", training_file=file, extra_headers=headers)
    second = other.fine_tuning.jobs.create(model="miniature", training_file=other_file, extra_headers=headers)
    assert first.id != second.id


class AnswersLost(httpx2.HTTPTransport):
    """The server does the work, and the client sees a failure, twice."""

    left = 2

    def handle_request(self, request):
        answer = super().handle_request(request)
        if request.method == "POST" and self.left:
            answer.read()
            self.left -= 1
            return httpx2.Response(500, request=request)
        return answer


def test_a_retry_after_a_lost_answer_is_the_same_job(parts, server, key, file):
    client = server.client(key, max_retries=2, http_client=httpx2.Client(transport=AnswersLost()))
    job = client.fine_tuning.jobs.create(model="miniature", training_file=file)
    assert jobs(parts) == 1
    assert client.fine_tuning.jobs.retrieve(job.id).id == job.id
    # Without a retry in between, the same request is another job.
    assert client.fine_tuning.jobs.create(model="miniature", training_file=file).id != job.id


def test_of_a_hundred_parallel_creates_as_many_pass_as_the_quota_has(tmp_path):
    parts = make_parts(tmp_path / "few", uses={"active_jobs": 5})
    server = Server(parts)
    client = server.client(new_key(parts))
    file = client.files.create(file=("rows.jsonl", upload()), purpose="fine-tune").id

    def create(number):
        try:
            return client.fine_tuning.jobs.create(model="miniature", training_file=file, suffix=str(number)).status
        except openai.RateLimitError as error:
            return error.body["code"]

    with ThreadPoolExecutor(32) as pool:
        made = list(pool.map(create, range(100)))
    assert Counter(made) == {"validating_files": 5, "quota_exceeded": 95}
    assert jobs(parts) == 5
    server.close()


def test_a_key_that_asks_too_often_must_wait(tmp_path):
    parts = make_parts(tmp_path / "slow", uses={"requests_per_minute": 10})
    server = Server(parts)
    with server.http(new_key(parts)) as one, server.http(new_key(parts)) as other:
        answers = [one.get("/v1/files") for _ in range(12)]
        assert [answer.status_code for answer in answers] == [200] * 10 + [429] * 2
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert other.get("/v1/files").status_code == 200
    server.close()


def many(parts, project, count):
    with parts.database.write() as connection:
        for number in range(count):
            add(connection, project, number)


def add(connection, project, number):
    connection.execute(
        insert(JOBS).values(
            id=new_id("job"), project_id=project, model="miniature", training_file="file-x", training_sha256="0",
            method={"type": "supervised", "supervised": {"hyperparameters": {}}}, seed=0, state="cancelled",
            result_files=[], created_at=number, finished_at=number, body_sha256=str(number),
        )
    )  # fmt: skip


@pytest.mark.parametrize("limit", [1, 7, 20, 100])
def test_pages_have_no_gap_and_no_repeat_while_jobs_are_added(parts, client, limit):
    with parts.database.read() as connection:
        project = connection.exec_driver_sql("select id from projects").scalar_one()
    many(parts, project, 45)
    before = [job.id for job in client.fine_tuning.jobs.list(limit=100)]
    assert len(before) == 45
    seen = []
    page = client.fine_tuning.jobs.list(limit=limit)
    while True:
        seen += [job.id for job in page.data]
        many(parts, project, 2)
        if not page.has_next_page():
            break
        page = page.get_next_page()
    assert seen == before


def test_jobs_are_found_by_their_metadata(client, file):
    made = {
        name: client.fine_tuning.jobs.create(model="miniature", training_file=file, suffix=name, metadata=metadata).id
        for name, metadata in {"a": {"team": "red", "x": "1"}, "b": {"team": "blue"}, "c": None}.items()
    }

    def found(**wanted):
        return [job.id for job in client.fine_tuning.jobs.list(metadata=wanted)]

    assert found(team="red") == [made["a"]]
    assert found(team="red", x="2") == []
    assert found() == [made["c"], made["b"], made["a"]]
    listed = client.fine_tuning.jobs.list(extra_query={"metadata": "null"})
    assert [job.id for job in listed] == [made["c"]]


def test_a_cursor_that_is_not_the_projects_is_refused(parts, server, client, file):
    other = server.client(new_key(parts, "other"))
    job = client.fine_tuning.jobs.create(model="miniature", training_file=file)
    for after in ("ftjob-unknown", job.id):
        with pytest.raises(openai.BadRequestError, match="to list after"):
            other.fine_tuning.jobs.list(after=after)


@pytest.mark.parametrize("body", ["", "nothing", "[]", "null", '{"model": 1}', "{", '"\\ud800"', "[" * 100_000])
def test_a_body_that_is_no_request_is_refused_in_the_contracts_form(server, key, body):
    with server.http(key) as http:
        answer = http.post("/v1/fine_tuning/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert set(answer.json()["error"]) >= {"message", "type", "param", "code"}


def test_a_service_whose_policy_cannot_act_takes_no_job(parts, server, client, file):
    from mithridate.service.policy_facts import POLICY, report

    with parts.database.write() as connection:
        report(connection, POLICY, "the judge is away")
    with pytest.raises(openai.InternalServerError, match="takes no jobs"):
        client.fine_tuning.jobs.create(model="miniature", training_file=file)
    ready = server.http().get("/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (503, False)
    assert set(ready.json()["faults"]) == {"policy", "workers"}
    assert "judge is away" not in ready.text


def test_the_service_is_ready_once_a_worker_is_there(server, worker):
    until(lambda: server.http().get("/readyz").status_code == 200)
    assert server.http().get("/healthz").json() == {"status": "ok"}


def test_events_are_paged_the_newest_first(client, file, worker):
    job = client.fine_tuning.jobs.create(model="miniature", training_file=file)
    until(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "succeeded")
    whole = [event.id for event in client.fine_tuning.jobs.list_events(job.id, limit=100)]
    assert [event.id for event in client.fine_tuning.jobs.list_events(job.id, limit=3)] == whole
    times = [event.created_at for event in client.fine_tuning.jobs.list_events(job.id)]
    assert times == sorted(times, reverse=True)
    metrics = [event.data for event in client.fine_tuning.jobs.list_events(job.id) if event.type == "metrics"]
    assert metrics == [
        {"step": 2, "total_steps": 2, "train_loss": 0.25, "train_mean_token_accuracy": 0.5},
        {"step": 1, "total_steps": 2, "train_loss": 0.5, "train_mean_token_accuracy": 0.5},
    ]
