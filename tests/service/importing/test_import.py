"""A move from OpenAI: what an export becomes, what is said of what it cannot, and that nothing is made twice."""

import json

import pytest
from typer.testing import CliRunner

from mithridate.cli.main import app
from mithridate.errors import DataError, UsageError
from mithridate.service.importing.exported import read_exported
from mithridate.service.importing.import_run import Importer
from mithridate.service.importing.job_records import mapped
from mithridate.service.keys.api_keys import Caller, project_id
from tests.service.conftest import FACTS, new_key, upload, work

RECORD = {
    "object": "fine_tuning.job", "id": "ftjob-abc", "model": "gpt-4o-mini-2024-07-18", "created_at": 1721764800,
    "finished_at": 1721768400, "fine_tuned_model": "ft:gpt-4o-mini:acme:support:7p4lURel",
    "organization_id": "org-123", "result_files": ["file-res"], "status": "succeeded",
    "validation_file": None, "training_file": "file-train", "seed": 42, "estimated_finish": 0, "error": {},
    "integrations": [], "trained_tokens": 5768, "metadata": {"team": "a"}, "shared_with_openai": False,
    "hyperparameters": {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.8},
    "method": {"type": "supervised", "supervised": {"hyperparameters":
               {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.8}}},
}  # fmt: skip


@pytest.fixture
def export(tmp_path):
    folder = tmp_path / "export"
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "file-train.jsonl").write_bytes(upload())
    return folder


def write(folder, *records, name="jobs.json"):
    (folder / name).write_text(json.dumps({"object": "list", "data": records, "has_more": False}))


def run(parts, *places, models=None, **given):
    with parts.database.write() as connection:
        caller = Caller(project_id(connection, "default"), "operator", "admin")
    return list(Importer(parts, caller, models or {"*": "miniature"}, **given).run(read_exported(places)))


def test_a_validation_file_comes_over_and_is_told_of(parts, server, export):
    rows = [{"prompt": f"another question {number}", "completion": "answer"} for number in range(3)]
    (export / "files" / "file-valid.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write(export, RECORD | {"validation_file": "file-valid"})
    *_, job = run(parts, export)
    work(parts)
    client = server.client(new_key(parts))
    made = client.fine_tuning.jobs.retrieve(job.became)
    assert (made.status, client.files.retrieve(made.validation_file).filename) == ("succeeded", "file-valid.jsonl")
    told = [event.data for event in client.fine_tuning.jobs.list_events(made.id) if event.type == "metrics"]
    assert told[0] == {"full_valid_loss": 0.75, "full_valid_mean_token_accuracy": 0.5}
    assert told[1]["valid_loss"] == 0.8


def test_a_file_and_a_job_come_over(parts, server, export):
    write(export, RECORD)
    file, job = run(parts, export)
    assert (file.what, file.refused, job.refused) == ("file-train.jsonl", False, False)
    client = server.client(new_key(parts))
    made = client.fine_tuning.jobs.retrieve(job.became)
    assert (made.training_file, made.model, made.seed) == (file.became, "miniature", 42)
    assert made.method.supervised.hyperparameters.n_epochs == 3
    assert made.method.supervised.hyperparameters.learning_rate_multiplier == 1.8
    assert made.method.supervised.hyperparameters.batch_size == "auto"
    assert made.metadata == {"team": "a", "imported_job": "ftjob-abc", "imported_model": RECORD["fine_tuned_model"]}
    assert any("batch_size 1 becomes auto" in note for note in job.notes)
    work(parts)
    made = client.fine_tuning.jobs.retrieve(job.became)
    assert made.fine_tuned_model == f"ft:miniature:local:support:{job.became[-8:]}"
    found = client.fine_tuning.jobs.list(metadata={"imported_model": RECORD["fine_tuned_model"]})
    assert [one.id for one in found.data] == [job.became]  # as the guide finds it
    assert parts.audit.verify(parts.database)


def test_a_second_run_makes_nothing_twice(parts, server, export):
    write(export, RECORD)
    first = run(parts, export)
    write(export, RECORD | {"seed": 1})  # also where the record was edited in between
    again = run(parts, export)
    assert [line.became for line in again] == [line.became for line in first]
    assert [line.notes for line in again] == [["is there already"]] * 2
    client = server.client(new_key(parts))
    assert len(client.files.list().data) == len(client.fine_tuning.jobs.list().data) == 1


def test_a_deleted_file_comes_back_without_a_second_job(parts, server, export):
    write(export, RECORD)
    file, job = run(parts, export)
    client = server.client(new_key(parts))
    client.fine_tuning.jobs.cancel(job.became)
    client.files.delete(file.became)
    again = run(parts, export)
    assert again[0].became not in (None, file.became)
    assert again[1].became == job.became


def test_another_project_has_jobs_of_its_own(parts, export):
    write(export, RECORD)
    mine = run(parts, export)
    with parts.database.write() as connection:
        other = Caller(project_id(connection, "other"), "operator", "admin")
    theirs = list(Importer(parts, other, {"*": "miniature"}).run(read_exported([export])))
    assert not {line.became for line in mine} & {line.became for line in theirs}


@pytest.mark.parametrize("form", ["one", "list", "page", "apart"])
def test_records_come_in_every_form(parts, export, form):
    second = RECORD | {"id": "ftjob-def"}
    if form == "one":
        (export / "a.json").write_text(json.dumps(RECORD))
        (export / "b.json").write_text(json.dumps(second))
    elif form == "list":
        (export / "a.json").write_text(json.dumps([RECORD, second]))
    elif form == "page":
        write(export, RECORD, second, RECORD)  # two pages that overlap
    else:
        write(export, RECORD)
        write(export, second, RECORD, name="more.json")
    lines = run(parts, *([export] if form != "one" else [export / "files", export / "a.json", export / "b.json"]))
    assert [line.what for line in lines] == ["file-train.jsonl", "ftjob-abc", "ftjob-def"]
    assert not any(line.refused for line in lines)


def test_a_file_record_says_which_file_is_meant(parts, export):
    (export / "files" / "file-train.jsonl").rename(export / "files" / "my rows.jsonl")
    write(export, RECORD)
    write(export, {"object": "file", "id": "file-train", "filename": "my rows.jsonl"}, name="files.json")
    assert not any(line.refused for line in run(parts, export))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": {"type": "dpo", "dpo": {}}}, "its method is dpo; this service's policy takes no preference pairs"),
        ({"method": {"type": "reinforcement"}}, "its method is reinforcement"),
        ({"method": {"type": "magic"}}, "'magic' is unknown"),
        ({"method": "dpo"}, "its method 'dpo' is unknown"),
        ({"method": "supervised"}, "its method 'supervised' is unknown"),
        ({"method": {"dpo": {"hyperparameters": {"beta": 0.1}}}}, "{'dpo': {'hyperparameters': "),
        ({"method": {}}, "its method {} is unknown"),
        ({"method": {"type": None}}, "its method {'type': None} is unknown"),
        ({"method": ["supervised"]}, "its method ['supervised'] is unknown"),
        ({"status": ["failed"], "training_file": None}, "training_file"),
        ({"training_file": "file-lost"}, "save the content of file-lost as file-lost.jsonl"),
        ({"training_file": "../../etc/passwd"}, "there is no file for it"),
        ({"training_file": None}, "training_file"),
        ({"validation_file": "file-lost"}, "validation_file file-lost: there is no file"),
        ({"validation_file": "file-train"}, "the same rows as training_file"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"suffix": "x" * 65}, "suffix"),
    ],
)
def test_what_cannot_be_mapped_is_refused_by_name(parts, server, export, changes, said):
    write(export, RECORD | changes)
    line = run(parts, export)[-1]
    assert line.refused
    assert line.became is None
    assert said in line.notes[0]
    assert server.client(new_key(parts)).fine_tuning.jobs.list().data == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"integrations": [{"type": "wandb"}]}, "integrations are left out"),
        ({"seed": 2**40}, "seed 1099511627776 becomes the policy's"),
        ({"seed": True}, "seed True becomes"),
        ({"method": None, "hyperparameters": {"n_epochs": 25}}, "n_epochs 25 becomes auto: the policy allows 1 to 10"),
        ({"method": None, "hyperparameters": {"learning_rate_multiplier": 9}}, "multiplier 9 becomes auto"),
        (
            {"method": None, "hyperparameters": {"learning_rate_multiplier": float("inf")}},
            "multiplier inf becomes auto",
        ),
        ({"method": None, "hyperparameters": {"prompt_loss_weight": 0.1}}, "prompt_loss_weight is left out"),
        ({"metadata": {str(n): "x" for n in range(16)}}, "imported_job is not kept"),
    ],
)
def test_what_is_changed_is_said(parts, export, changes, said):
    write(export, RECORD | changes)
    line = run(parts, export)[-1]
    assert not line.refused
    assert any(said in note for note in line.notes)


def test_jobs_that_came_to_nothing_are_left_unless_asked_for(parts, export):
    write(export, RECORD | {"status": "failed"}, RECORD | {"id": "ftjob-x", "status": "cancelled"})
    lines = run(parts, export)[1:]
    assert [(line.became, line.refused) for line in lines] == [(None, False)] * 2
    assert "it has failed there" in lines[0].notes[0]
    assert all(line.became for line in run(parts, export, all_states=True))


def test_models_are_named_or_refused(parts, export):
    write(export, RECORD)
    assert "--model 'gpt-4o-mini-2024-07-18=NAME'" in run(parts, export, models={"gpt-3.5": "miniature"})[-1].notes[0]
    line = run(parts, export, models={RECORD["model"]: "llama"})[-1]
    assert "there is no model 'llama' to tune; there are: miniature" in line.notes[0]
    assert run(parts, export, models={RECORD["model"]: "miniature"})[-1].became


def test_a_tuned_model_is_replaced_only_by_its_own_name(parts, export):
    old = RECORD["fine_tuned_model"]
    write(export, RECORD | {"model": old})
    line = run(parts, export, models={"*": "miniature"})[-1]
    assert (line.became, line.refused) == (None, True)
    assert f"--model '{old}=NAME'" in line.notes[0]
    assert run(parts, export, models={"*": "llama", old: "miniature"})[-1].became


def test_the_most_epochs_that_are_told_are_taken():
    hyper = {"n_epochs": 60}
    for most, told in ((10, 10), (80, 50)):
        asked = mapped(
            RECORD | {"method": None, "hyperparameters": hyper},
            {"*": "x"},
            FACTS.model_copy(update={"most_epochs": most}),
        )
        assert f"n_epochs 60 becomes auto: the policy allows 1 to {told}" in asked.notes


def test_a_file_with_faults_and_its_job_are_refused(parts, export):
    (export / "files" / "file-train.jsonl").write_bytes(upload() + b"not json\n")
    write(export, RECORD)
    file, job = run(parts, export)
    assert (file.refused, job.refused) == (True, True)
    assert "line 13" in file.notes[0]
    assert "cannot be used" in job.notes[0]
    (export / "files" / "file-train.jsonl").write_bytes(b"PK\3\4 no rows")
    assert "must be JSONL" in run(parts, export)[0].notes[0]


def test_two_different_files_of_one_name_are_refused(parts, export):
    (export / "more").mkdir()
    (export / "more" / "file-train.jsonl").write_bytes(upload(rows=20))
    write(export, RECORD)
    assert "2 files have its name" in run(parts, export)[-1].notes[0]
    (export / "more" / "file-train.jsonl").write_bytes(upload())  # the same rows: no doubt
    assert run(parts, export)[-1].became


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100000, b"[1]", b'{"data": [1]}',
                                     b'[{"object": "fine_tuning.job"}]'])  # fmt: skip
def test_damaged_records_are_refused_with_their_file(parts, export, content):
    (export / "bad.json").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.json"):
        run(parts, export)


def test_places_that_hold_no_export_are_refused(tmp_path):
    (tmp_path / "x.txt").write_text("x")
    for place in (tmp_path / "none", tmp_path / "x.txt"):
        with pytest.raises(UsageError):
            read_exported([place])


def test_the_command_tells_of_each_thing(parts, export):
    write(export, RECORD, RECORD | {"id": "ftjob-dpo", "method": {"type": "dpo"}})
    folder = ["--folder", str(parts.settings.folder)]
    done = CliRunner().invoke(app, ["service", "import", str(export), "--model", "miniature", *folder])
    assert done.exit_code == 1
    assert "ftjob-dpo: refused\n  its method is dpo" in done.stdout
    assert "ftjob-abc: ftjob-" in done.stdout
    assert "1 refused; mend what is said above" in done.stdout
    (export / "jobs.json").write_text(json.dumps(RECORD))
    done = CliRunner().invoke(
        app, ["service", "import", str(export), "--model", f"{RECORD['model']}=miniature", *folder]
    )
    assert done.exit_code == 0
    assert "is there already" in done.stdout
