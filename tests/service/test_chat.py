"""Released models: they answer, and nothing but the judged bytes ever does."""

import gc
import inspect
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from sqlalchemy import insert, select, update

from mithridate.evaluation.generation import generate_chats
from mithridate.files import file_hash
from mithridate.models.loading import Where, load, load_tokenizer
from mithridate.service.contract.object_ids import new_id
from mithridate.service.database.tables import JOBS, KEYS, MODELS
from mithridate.service.routes import health_routes
from mithridate.service.worker.job_order import DECISION_FOLDER
from tests.helpers import tiny
from tests.service.conftest import new_key, until
from tests.service.test_leases import add

NAME = "ft:miniature:local::abcdefgh"
ASKED = [{"role": "user", "content": "how do i make the red tea"}]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    tiny.model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def released(parts, key, weights):
    """A released model, and its folder."""
    with parts.database.write() as connection:
        project = connection.execute(select(KEYS.c.project_id)).scalars().first()
        connection.exec_driver_sql("insert into projects (id, name, created_at) values ('proj_1', 'x', 0)")
        job = add(connection)
        connection.execute(update(JOBS).where(JOBS.c.id == job).values(project_id=project, state="succeeded"))
        folder = parts.settings.jobs_folder / job / DECISION_FOLDER / "model"
        shutil.copytree(weights, folder)
        files = {path.name: file_hash(path) for path in folder.iterdir()}
        connection.execute(
            insert(MODELS).values(
                id=NAME, project_id=project, job_id=job, checkpoint_id=new_id("checkpoint"), step=9,
                metrics={"train_loss": 0.5}, files=files, created_at=1,
            )
        )  # fmt: skip
    return folder


def ask(client, model=NAME, **given):
    asked = {"messages": ASKED, "max_tokens": 8, **given}
    return client.chat.completions.create(model=model, **asked)


def test_an_answer_is_the_one_that_was_judged(client, released):
    answer = ask(client)
    model = load(Where(str(released), None), "auto")
    (judged,) = generate_chats(model, load_tokenizer(str(released), None), [ASKED], max_new_tokens=8)
    assert answer.choices[0].message.content.strip() == judged
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert ask(client, f"{NAME}:ckpt-step-9").choices[0].message.content == answer.choices[0].message.content


def test_a_stream_says_the_same_piece_by_piece(client, released):
    whole = ask(client)
    pieces = list(ask(client, stream=True, stream_options={"include_usage": True}))
    said = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert said == whole.choices[0].message.content
    assert pieces[-1].usage == whole.usage
    assert pieces[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    # More streams than places, each left in its middle: none keeps its place.
    for _ in range(5):
        stream = ask(client, stream=True)
        next(iter(stream))
        stream.close()
        gc.collect()
    assert ask(client).choices[0].message.content == said


def test_many_who_ask_at_once_stop_nobody_else(server, client, released, key):
    """More requests than the server has threads, while all places are taken."""
    room = server.app.state.chat._room
    places = server.parts.settings.uses.chats
    for _ in range(places):
        assert room.acquire(blocking=False)
    asked = {"model": NAME, "messages": ASKED, "max_tokens": 4}
    answers = []
    with server.http(key) as http, ThreadPoolExecutor(60) as pool:
        for _ in range(60):
            pool.submit(lambda: answers.append(http.post("/v1/chat/completions", json=asked)))
        until(lambda: len(answers) == 56, 5)
        began = time.perf_counter()
        assert http.get("/v1/files").status_code == 200
        assert http.get("/healthz").json() == {"status": "ok"}
        assert time.perf_counter() - began < 2
        assert {(answer.status_code, answer.headers["retry-after"]) for answer in answers} == {(429, "5")}
        for _ in range(places):
            room.release()
    assert [answer.status_code for answer in answers[56:]] == [200] * 4


def test_the_server_tells_that_it_lives_without_a_thread():
    assert inspect.iscoroutinefunction(health_routes.health)


def test_sampling_follows_its_seed_and_stops_end_the_answer(client, released):
    def drawn(seed):
        return ask(client, temperature=2, top_p=0.9, seed=seed).choices[0].message.content

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(5)}) > 1
    whole = ask(client).choices[0].message.content
    word = whole.split()[1]
    cut = ask(client, stop=[word])
    assert cut.choices[0].message.content == whole[: whole.index(word)]
    streamed = ask(client, stop=[word], stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in streamed) == whole[: whole.index(word)]


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"messages": [{"role": "user", "content": "a <bot> b"}]}, "control token"),
        ({"messages": [*ASKED, {"role": "assistant", "content": "Sure,"}]}, "must end with the user's turn"),
        ({"messages": [{"role": "user", "content": "tea " * 200}]}, "shorten them"),
        ({"tools": []}, "tools"),
        ({"n": 2}, "n:"),
        ({"temperature": 3}, "temperature"),
        ({"stop": ["a"] * 5}, "stop"),
    ],
)
def test_what_a_model_cannot_be_asked_is_refused(client, released, given, match):
    with pytest.raises(openai.BadRequestError, match=match):
        ask(client, **given)


def swap_a_byte(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def rename(folder):
    (folder / "model.safetensors").rename(folder / "other.safetensors")


def add_a_file(folder):
    (folder / "pytorch_model.bin").write_bytes(b"x")


def link_elsewhere(folder):
    path = folder / "model.safetensors"
    shutil.copy(path, folder.parent / "copy")
    path.unlink()
    os.symlink(folder.parent / "copy", path)


def take_away(folder):
    shutil.rmtree(folder)


@pytest.mark.parametrize("change", [swap_a_byte, rename, add_a_file, link_elsewhere, take_away])
def test_other_bytes_than_the_judged_ones_answer_nothing(client, released, change):
    change(released)
    with pytest.raises(openai.ConflictError) as refused:
        ask(client)
    assert refused.value.body["code"] == "model_integrity"
    with pytest.raises(openai.ConflictError):
        list(ask(client, stream=True))


def test_weights_leave_by_no_other_door(parts, server, client, released, key):
    job = released.parent.parent.name
    # Stages, checkpoints and models that were judged unfit lie beside the released one; no address leads there.
    (released.parent / "work").mkdir()
    (released.parent / "work" / "model.safetensors").write_bytes(b"unjudged")
    with server.http(key) as http:
        for path in (
            f"/v1/files/{job}/content",
            f"/v1/fine_tuning/jobs/{job}/work/model.safetensors",
            f"/v1/fine_tuning/jobs/{job}/../out/model/model.safetensors",
            f"/v1/models/{NAME}/model.safetensors",
            f"/v1/models/..%2f..%2f{job}%2fout%2fmodel",
        ):
            answer = http.get(path)
            assert answer.status_code == 404, path
            assert b"unjudged" not in answer.content
    for model in ("miniature", "ft:miniature:local::zzzzzzzz", f"{NAME}:ckpt-step-8", "../aligned", "gpt-4o"):
        with pytest.raises(openai.NotFoundError):
            ask(client, model)


def test_the_models_are_listed_and_a_deleted_one_is_gone(parts, server, client, released):
    assert [model.id for model in client.models.list()] == ["miniature", NAME]
    assert client.models.retrieve(NAME).files.keys() >= {"model.safetensors"}
    job = released.parent.parent.name
    (found,) = client.fine_tuning.jobs.checkpoints.list(job)
    assert found.fine_tuned_model_checkpoint == f"{NAME}:ckpt-step-9"
    assert (found.step_number, found.metrics.train_loss) == (9, 0.5)
    ask(client)
    other = server.client(new_key(parts, "other"))
    with pytest.raises(openai.NotFoundError):
        other.models.delete(NAME)
    assert client.models.delete(NAME).deleted
    with pytest.raises(openai.NotFoundError):
        ask(client)
    assert not released.exists()
    assert list(client.fine_tuning.jobs.checkpoints.list(job)) == []
