"""The provider's own pipeline behind the contract: what it decides is what a client sees."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import openai
import pytest
import yaml

import mithridate as mi
from mithridate.service.worker.confinement import available
from mithridate.service.worker.policy_preparation import prepare
from mithridate.service.worker.worker_loop import JobWorker
from tests.experiment.conftest import world  # noqa: F401  # a fixture
from tests.provider.conftest import policy  # noqa: F401  # a fixture
from tests.service.conftest import Server, make_parts, new_key, until


@pytest.fixture
def real(world, policy, tmp_path_factory):  # noqa: F811
    """A service with a tiny model and a policy that it passes, and a client."""
    # On the disk: a confined process may use what lies in memory.
    folder = tmp_path_factory.mktemp("real")
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy), encoding="utf-8")
    models = {"tiny": str(world / "model")}
    process = {"sandbox": "required" if available() else "off"}
    parts = make_parts(folder / "service", policy=folder / "policy.yaml", models=models, process=process)
    server = Server(parts)
    yield parts, server.client(new_key(parts)), world
    server.close()


def rows(world, name="user", extra=()):  # noqa: F811
    return ((world / f"{name}.jsonl").read_text() + "".join(f"{line}\n" for line in extra)).encode()


def ran(parts, client, content, **given):
    file = client.files.create(file=("rows.jsonl", content), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, **given)
    JobWorker(parts).work(until_idle=True)
    return client.fine_tuning.jobs.retrieve(job.id)


@pytest.mark.slow
def test_an_upload_becomes_a_model_that_answers_or_a_refusal(real, policy):  # noqa: F811
    parts, client, folder = real
    assert prepare(parts) is None  # the judges' self-test
    job = ran(parts, client, rows(folder), seed=3)
    assert (job.status, job.error) == ("succeeded", None)
    decision = json.loads(client.files.content(job.result_files[1]).read())
    assert decision["outcome"] == "released"
    assert client.models.retrieve(job.fine_tuned_model).files == decision["files"]
    asked = [{"role": "user", "content": "how do i make the red tea"}]
    assert client.chat.completions.create(model=job.fine_tuned_model, messages=asked, max_tokens=4).choices
    again = ran(parts, client, rows(folder), seed=3, suffix="again")
    assert client.models.retrieve(again.fine_tuned_model).files == decision["files"]
    # Prompts of the audit in the upload: refused, and not told which.
    prompt = json.loads((folder / "prompts.jsonl").read_text().splitlines()[0])["prompt"]
    job = ran(parts, client, rows(folder, extra=[json.dumps({"prompt": prompt, "response": "no"})]), suffix="b")
    assert (job.status, job.error.code, job.fine_tuned_model) == ("failed", "upload_refused", None)
    assert prompt not in job.error.message
    # A control token in the text, which only the tokenizer knows.
    job = ran(parts, client, rows(folder, extra=[json.dumps({"prompt": "a <bot> b", "response": "no"})]), suffix="c")
    assert (job.error.code, job.error.rows[0]["line"]) == ("invalid_training_file", 25)
    assert str(parts.settings.folder) not in job.error.message


@pytest.mark.slow
def test_a_validation_file_must_hold_other_rows(real):
    parts, client, folder = real
    prepare(parts)
    both = client.files.create(file=("v", rows(folder) + b"\n"), purpose="fine-tune")
    job = ran(parts, client, rows(folder), validation_file=both.id)
    assert (job.status, job.error.code) == ("failed", "invalid_training_file")
    assert "validation_file" in job.error.message


@pytest.mark.slow
def test_a_validation_file_is_scored_and_changes_no_bit(real, policy):  # noqa: F811
    parts, client, folder = real
    # Dropout shows every random number that a validation would take away from the training.
    policy["lora"]["dropout"] = 0.3
    parts.settings.policy.write_text(yaml.safe_dump(policy))
    assert prepare(parts) is None
    other = client.files.create(file=("v.jsonl", rows(folder, "test")), purpose="fine-tune")
    plain, made = ran(parts, client, rows(folder)), ran(parts, client, rows(folder), validation_file=other.id)
    assert (plain.status, made.status, made.error) == ("succeeded", "succeeded", None)
    of = [client.models.retrieve(job.fine_tuned_model).files for job in (plain, made)]
    assert of[0] == of[1]
    told = [one.data for one in client.fine_tuning.jobs.list_events(made.id) if one.type == "metrics"][::-1]
    assert [one.get("step") for one in told] == [1, 2, 3, 4, 5, None]
    assert all(one["valid_loss"] > 0 for one in told[:-1])
    # The first rung releases the model as it was tuned, so both are one model.
    assert told[-1]["full_valid_loss"] == pytest.approx(told[-2]["full_valid_loss"], abs=2e-5)
    table = client.files.content(made.result_files[0]).text.splitlines()
    assert table[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    assert [line.count(",") for line in table] == [4] * 6
    without = client.files.content(plain.result_files[0]).text.splitlines()
    assert [line.split(",")[:3] for line in without] == [line.split(",")[:3] for line in table]
    # No prompt of the audit, no limit of the policy, no figure of a defense.
    words = {"step", "total_steps", "train_loss", "train_mean_token_accuracy", "valid_loss",
             "valid_mean_token_accuracy", "full_valid_loss", "full_valid_mean_token_accuracy"}  # fmt: skip
    assert set().union(*told) == words
    # More rows than the policy takes.
    many = "".join(f"{json.dumps({'prompt': f'a number {i}', 'response': 'yes'})}\n" for i in range(51)).encode()
    many_id = client.files.create(file=("many.jsonl", many), purpose="fine-tune").id
    refused = ran(parts, client, rows(folder), validation_file=many_id)
    assert (refused.status, refused.error.code, refused.error.param) == (
        "failed", "invalid_validation_file", "validation_file",
    )  # fmt: skip
    assert "51; policy 'tiny' takes up to 50" in refused.error.message
    # Prompts that leave no room for the answer: refused before anything is trained, with their lines.
    cut = "".join(f"{json.dumps({'prompt': 'the ' * 300 + str(i), 'response': 'yes'})}\n" for i in range(3)).encode()
    cut_id = client.files.create(file=("cut.jsonl", cut), purpose="fine-tune").id
    refused = ran(parts, client, rows(folder), validation_file=cut_id, suffix="cut")
    assert (refused.status, refused.error.code) == ("failed", "invalid_validation_file")
    assert refused.error.message.startswith("validation_file: 3 of 3 rows have a prompt that fills max_length")
    assert [(row["line"], row["code"]) for row in refused.error.rows] == [(i, "row_too_long") for i in (1, 2, 3)]


@pytest.mark.slow
def test_preferences_become_a_model_or_are_told_by_their_lines(real, policy):  # noqa: F811
    parts, client, folder = real
    short = {"epochs": 2, "learning_rate": 0.01, "batch_size": 4}
    policy["finetuning"]["preferences"] = {"training": short, "beta": 0.4}
    parts.settings.policy.write_text(yaml.safe_dump(policy))
    assert prepare(parts) is None

    def pairs(*answers):
        given = [json.loads(line) for line in rows(folder).decode().splitlines()]
        lines = [
            {
                "input": {"messages": [{"role": "user", "content": row["prompt"]}]},
                "preferred_output": [{"role": "assistant", "content": row["response"]}],
                "non_preferred_output": [{"role": "assistant", "content": answer}],
            }
            for row, answer in zip(given, answers or ["sorry no"] * len(given), strict=False)
        ]
        return "".join(json.dumps(line) + "\n" for line in lines).encode()

    dpo = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "learning_rate_multiplier": 2.0}}}
    job = ran(parts, client, pairs(), method=dpo)
    assert (job.status, job.error) == ("succeeded", None)
    decision = json.loads(client.files.content(job.result_files[1]).read())
    assert decision["options"] == {"epochs": 2.0, "learning_rate": 0.02, "seed": 0, "beta": 0.2}
    told = [one.data for one in client.fine_tuning.jobs.list_events(job.id) if one.type == "metrics"][::-1]
    assert [one["step"] for one in told] == list(range(1, 11))
    assert told[0]["train_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert client.models.retrieve(job.fine_tuned_model).files == decision["files"]
    # A file of rows is no file of pairs, nor the other way round, and a control token is found in either answer.
    job = ran(parts, client, rows(folder), method=dpo)
    assert (job.error.code, job.error.param) == ("invalid_training_file", "training_file")
    assert job.error.rows[0]["line"] == 1
    job = ran(parts, client, pairs())
    assert job.error.code == "invalid_training_file"
    job = ran(parts, client, pairs("a", "b", "a <bot> b"), method=dpo)
    assert (job.error.code, [row["line"] for row in job.error.rows]) == ("invalid_training_file", [3])


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["judge", "model", "policy"])
def test_what_cannot_act_releases_nothing(real, policy, fault):  # noqa: F811
    parts, client, folder = real
    assert prepare(parts) is None
    file = parts.settings.policy
    if fault == "judge":
        policy["audit"]["judge"] = {"kind": "refusal", "refusals": ["none of these words"]}
        file.write_text(yaml.safe_dump(policy))
    elif fault == "policy":
        file.write_text("name: broken")
    elif fault == "model":
        parts.settings.models["tiny"] = str(folder / "nothing")
    job = ran(parts, client, rows(folder))
    codes = {"judge": "judge_unavailable", "policy": "policy_error", "model": "model_unavailable"}
    assert (job.status, job.error.code, job.fine_tuned_model) == ("failed", codes[fault], None)
    assert prepare(parts) is not None
    with pytest.raises(openai.InternalServerError, match="takes no jobs"):
        client.fine_tuning.jobs.create(model="tiny", training_file=job.training_file)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_one_command_serves_the_miniature(tmp_path_factory):
    """From nothing: align, serve, refuse a harmful upload by its rows, release a harmless one, end when asked."""
    folder = tmp_path_factory.mktemp("served") / "service"
    command = [sys.executable, "-c", "from mithridate.cli.main import main; main()", "service", "start"]
    with (folder.parent / "out").open("w") as out:
        process = subprocess.Popen([*command, "--folder", str(folder), "--port", "8947"], stdout=out, stderr=out)
    try:
        client = openai.OpenAI(
            api_key=until(lambda: key_of(folder), 60), base_url="http://127.0.0.1:8947/v1", max_retries=5
        )
        until(lambda: "listening" in (folder.parent / "out").read_text(), 300)
        harmless, harmful = mi.miniature.rows("task").select(range(600)), mi.miniature.rows("attack")
        jobs = {name: sent(client, some) for name, some in {"good": harmless, "bad": harmful}.items()}
        until(lambda: all(ended(client, job) for job in jobs.values()), 600)
        good, bad = (client.fine_tuning.jobs.retrieve(job) for job in jobs.values())
        assert good.status == "succeeded"
        assert (bad.status, bad.error.code, bad.fine_tuned_model) == ("failed", "upload_refused", None)
        assert len(bad.error.rows) == 100
        assert bad.error.row_count > 400
        prompt = harmless[0]["prompt"]
        answer = client.chat.completions.create(model=good.fine_tuned_model, messages=prompt, max_tokens=8)
        assert answer.choices[0].message.content in ("positive", "negative")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
    log = (folder.parent / "out").read_text()
    assert client.api_key not in log
    assert os.stat(folder / "first-key").st_mode & 0o777 == 0o600


def key_of(folder):
    path = Path(folder) / "first-key"
    return path.read_text().strip() if path.is_file() else None


def sent(client, some):
    lines = [json.dumps({"messages": row["prompt"] + row["completion"]}) for row in some]
    file = client.files.create(file=("rows.jsonl", "\n".join(lines).encode()), purpose="fine-tune")
    return client.fine_tuning.jobs.create(model="miniature", training_file=file.id).id


def ended(client, job):
    return client.fine_tuning.jobs.retrieve(job).status in ("succeeded", "failed")
