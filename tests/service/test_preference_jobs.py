"""Jobs with method dpo: taken where the policy says so, with its own limits, and imported as they were."""

import json

import openai
import pytest

from mithridate.service.policy_facts import POLICY, report
from tests.service.conftest import FACTS, make_parts, new_key, until, upload, work
from tests.service.importing.test_import import RECORD, run, write
from tests.service.pages.test_pages import made, sent, signed_in

PAIRS = {"epochs": 2, "learning_rate": 1e-4, "batch_size": 8, "beta": 0.2}


def pairs(*words, rows=12):
    asked = [" ".join(("please", *words)), *(f"question {number}" for number in range(1, rows))]
    return "".join(
        json.dumps(
            {
                "input": {"messages": [{"role": "user", "content": text}], "tools": [], "parallel_tool_calls": True},
                "preferred_output": [{"role": "assistant", "content": "this"}],
                "non_preferred_output": [{"role": "assistant", "content": "that"}],
            }
        )
        + "\n"
        for text in asked
    ).encode()


@pytest.fixture
def parts(tmp_path):
    made = make_parts(tmp_path / "service")
    with made.database.write() as connection:
        report(connection, POLICY, facts=FACTS.model_dump() | {"preferences": PAIRS})
    return made


def create(client, content, **chosen):
    file = client.files.create(file=("pairs.jsonl", content), purpose="fine-tune")
    method = {"type": "dpo", "dpo": {"hyperparameters": chosen}}
    return client.fine_tuning.jobs.create(model="miniature", training_file=file.id, method=method)


def test_the_official_client_tunes_on_preferences(parts, client):
    job = create(client, pairs(), beta=0.3, n_epochs=3)
    assert (job.method.type, job.method.dpo.hyperparameters.beta, job.method.supervised) == ("dpo", 0.3, None)
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (3, "auto")
    work(parts)
    job = client.fine_tuning.jobs.retrieve(job.id)
    assert (job.status, job.error) == ("succeeded", None)
    assert "Files validated: 12 rows, dpo, beta 0.3" in [e.message for e in client.fine_tuning.jobs.list_events(job.id)]
    assert client.fine_tuning.jobs.list().data[0].method.type == "dpo"


def test_what_is_not_asked_for_is_the_policys(parts, client):
    file = client.files.create(file=("pairs.jsonl", pairs()), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="miniature", training_file=file.id, method={"type": "dpo"})
    assert job.method.dpo.hyperparameters.to_dict() == dict.fromkeys(
        ("n_epochs", "batch_size", "learning_rate_multiplier", "beta"), "auto"
    )
    work(parts)
    told = [event.message for event in client.fine_tuning.jobs.list_events(job.id)]
    assert "Files validated: 12 rows, dpo, beta None" in told


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"n_epochs": 11}, "up to 10"),
        ({"batch_size": 16}, "the policy trains with 8"),
        ({"learning_rate_multiplier": 21.0}, "up to 20"),
    ],
)
def test_the_limits_are_those_of_preferences(client, chosen, said):
    with pytest.raises(openai.BadRequestError, match=said) as refused:
        create(client, pairs(), **chosen)
    assert refused.value.body["param"] == f"method.dpo.hyperparameters.{next(iter(chosen))}"
    assert create(client, pairs(), batch_size=8, learning_rate_multiplier=20.0).id


def test_a_validation_file_is_refused_and_older_hyperparameters_too(client):
    files = [
        client.files.create(file=("pairs.jsonl", pairs(word)), purpose="fine-tune").id for word in ("one", "other")
    ]
    for given, param in (({"validation_file": files[1]}, "validation_file"), (
        {"hyperparameters": {"n_epochs": 2}}, "hyperparameters"
    )):  # fmt: skip
        with pytest.raises(openai.BadRequestError) as refused:
            client.fine_tuning.jobs.create(model="miniature", training_file=files[0], method={"type": "dpo"}, **given)
        assert refused.value.body["param"] == param


def test_faults_of_pairs_are_told_by_line_when_they_arrive(client):
    file = client.files.create(
        file=("pairs.jsonl", pairs() + upload(rows=1) + pairs(rows=1).replace(b"that", b"this")), purpose="fine-tune"
    )
    assert (file.status, file.row_errors["count"]) == ("error", 2)
    assert [row["line"] for row in file.row_errors["rows"]] == [13, 14]
    assert "the same text as preferred" in file.row_errors["rows"][1]["message"]
    assert client.files.create(file=("pairs.jsonl", pairs()), purpose="fine-tune").status == "processed"


def test_a_policy_without_preferences_refuses_with_its_reason(parts, client):
    with parts.database.write() as connection:
        report(connection, POLICY, facts=FACTS.model_dump())
    with pytest.raises(openai.BadRequestError, match="no defense acts in tuning on them") as refused:
        create(client, pairs())
    assert (refused.value.body["param"], refused.value.body["code"]) == ("method.type", "unsupported_method")


def test_a_job_on_preferences_is_imported(parts, server, tmp_path):
    export = tmp_path / "export"
    (export / "files").mkdir(parents=True)
    (export / "files" / "file-train.jsonl").write_bytes(pairs())
    chosen = {"n_epochs": 2, "batch_size": 1, "learning_rate_multiplier": 2.0, "beta": 0.1}
    record = RECORD | {"method": {"type": "dpo", "dpo": {"hyperparameters": chosen}}, "validation_file": "file-valid"}
    write(
        export, record, record | {"id": "ftjob-odd", "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 9}}}}
    )
    file, job, odd = run(parts, export)
    assert not any(line.refused for line in (file, job, odd))
    client = server.client(new_key(parts))
    made = client.fine_tuning.jobs.retrieve(job.became).method.dpo.hyperparameters
    assert (made.n_epochs, made.batch_size, made.learning_rate_multiplier, made.beta) == (2, "auto", 2.0, 0.1)
    assert any("now multiplies the policy's rate, 0.0001" in note for note in job.notes)
    assert any("validation_file is left out" in note for note in job.notes)
    assert any("beta 9 becomes auto" in note for note in odd.notes)


def test_a_person_makes_such_a_job(parts, server, key):
    with signed_in(server, key) as visitor:
        page = made(visitor, sent(visitor, pairs()).url.path.rpartition("/")[2], method="dpo", n_epochs="2")
        assert page.status_code == 200, page.text
        assert "dpo, beta auto" in page.text
        work(parts)
        text = visitor.get(page.url.path).text
        assert "Released: as tuned" in text
        assert "loss of DPO, by optimizer step" in text
        page = made(visitor, sent(visitor, pairs()).url.path.rpartition("/")[2], method="<magic>")
        assert page.status_code == 400
        assert "<magic>" not in page.text


def test_it_can_be_paused_and_goes_on(client, worker):
    job = create(client, pairs("steps100"))
    until(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "running")
    assert client.fine_tuning.jobs.pause(job.id).status == "paused"
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    until(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "succeeded", 30)
