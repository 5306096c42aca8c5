"""Every answer is one of the public contract, by our own description of it and by the client's types (A2)."""

import re

import httpx
import jsonschema  # type: ignore[import-untyped]
import pytest
from openai.types import FileDeleted, FileObject, Model, ModelDeleted, Upload
from openai.types.chat import ChatCompletion
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from openai.types.uploads import UploadPart
from sqlalchemy import update

from mithridate.service.database.tables import JOBS
from tests.service.conftest import new_key, upload, work
from tests.service.public_contract import ANSWERS, ERROR, JOB
from tests.service.test_access import ROUTES
from tests.service.test_chat import ASKED, NAME, released, weights  # noqa: F401  # fixtures

TYPES = {
    "file": FileObject, "upload": Upload, "upload.part": UploadPart, "fine_tuning.job": FineTuningJob,
    "fine_tuning.job.event": FineTuningJobEvent, "fine_tuning.job.checkpoint": FineTuningJobCheckpoint,
    "model": Model, "chat.completion": ChatCompletion,
}  # fmt: skip
OURS = {
    ("GET", "/v1/fine_tuning/jobs/{job_id}/decision"), ("GET", "/v1/fine_tuning/jobs/{job_id}/report"),
    ("GET", "/v1/service/audit"), ("GET", "/v1/service/policy"), ("GET", "/healthz"), ("GET", "/readyz"),
    ("GET", "/metrics"),
}  # fmt: skip
"""Routes that the contract lacks."""


class Watch:
    """Holds every answer against the contract, and remembers which routes were asked."""

    def __init__(self, server, key):
        self.carried_out, self.refused = set(), set()
        headers = {"Authorization": f"Bearer {key}"}
        self.http = httpx.Client(base_url=server.url, headers=headers, timeout=30, verify=False)

    def ask(self, method, path, status=200, **given):
        answer = self.http.request(method, path, **given)
        assert answer.status_code == status, (method, path, answer.text)
        route = self.route_of(method, path)
        if status != 200:
            self.refused.add(route)
            jsonschema.validate(answer.json(), ERROR)
            return answer.json()
        self.carried_out.add(route)
        if ANSWERS[route] is None:
            return answer.content
        jsonschema.validate(answer.json(), ANSWERS[route])
        self.by_the_clients_types(answer.json())
        return answer.json()

    def route_of(self, method, path):
        plain = path.partition("?")[0]
        found = []
        for route in ANSWERS:
            pattern = re.sub(r"\\\{[^}]*path\\\}", ".+", re.escape(route[1]))
            pattern = re.sub(r"\\\{[^}]*\\\}", "[^/]+", pattern)
            if route[0] == method and re.fullmatch(pattern, plain):
                found.append(route)
        (route,) = found
        return route

    def by_the_clients_types(self, answer):
        if answer.get("object") == "list":
            for one in answer["data"]:
                self.by_the_clients_types(one)
        elif answer.get("deleted") is True:
            {"file": FileDeleted, "model": ModelDeleted}.get(answer["object"], ModelDeleted).model_validate(answer)
        elif answer["object"] in TYPES:
            if answer.get("status") == "paused":
                answer = answer | {"status": "queued"}  # the one word that the client's type lacks
            TYPES[answer["object"]].model_validate(answer)


@pytest.fixture
def watch(server, key):
    made = Watch(server, key)
    yield made
    made.http.close()


def form(content):
    return {"files": {"file": ("rows.jsonl", content)}, "data": {"purpose": "fine-tune"}}


def through_everything(watch, parts, other):
    jobs = "/v1/fine_tuning/jobs"
    file = watch.ask("POST", "/v1/files", **form(upload()))["id"]
    faulty = watch.ask("POST", "/v1/files", **form(upload() + b"{}\n"))
    assert faulty["status"] == "error"
    watch.ask("GET", "/v1/files?limit=1")
    watch.ask("GET", f"/v1/files/{file}")
    assert watch.ask("GET", f"/v1/files/{file}/content") == upload()
    held_out = watch.ask("POST", "/v1/files", **form(upload("held", "out")))["id"]
    asked = {"filename": "r.jsonl", "purpose": "fine-tune", "bytes": len(upload()), "mime_type": "text/jsonl"}
    begun = [watch.ask("POST", "/v1/uploads", json=asked)["id"] for _ in range(2)]
    part = watch.ask("POST", f"/v1/uploads/{begun[0]}/parts", files={"data": upload()})["id"]
    watch.ask("POST", f"/v1/uploads/{begun[0]}/complete", json={"part_ids": [part]})
    watch.ask("POST", f"/v1/uploads/{begun[1]}/cancel")

    body = {"model": "miniature", "training_file": file, "suffix": "shop", "seed": 3, "metadata": {"a": "b"}}
    chosen = {"n_epochs": 2, "batch_size": 16, "learning_rate_multiplier": 1.5}
    method = {"type": "supervised", "supervised": {"hyperparameters": chosen}}
    job = watch.ask("POST", jobs, json={**body, "method": method, "validation_file": held_out})["id"]
    assert watch.ask("POST", f"{jobs}/{job}/pause")["status"] == "paused"
    watch.ask("POST", f"{jobs}/{job}/resume")
    for word in ("refused_at_upload", "refused_at_release", "fail"):
        other_file = watch.ask("POST", "/v1/files", **form(upload(word)))["id"]
        watch.ask("POST", jobs, json={"model": "miniature", "training_file": other_file})
    ended = watch.ask("POST", jobs, json=body)["id"]
    watch.ask("POST", f"{jobs}/{ended}/cancel")
    work(parts)
    states = {one["status"] for one in watch.ask("GET", f"{jobs}?limit=100")["data"]}
    assert states == {"succeeded", "failed", "cancelled"}
    made = watch.ask("GET", f"{jobs}/{job}")["fine_tuned_model"]
    watch.ask("GET", f"{jobs}/{job}/events?limit=100")
    assert watch.ask("GET", f"{jobs}/{job}/checkpoints")["data"]

    sharing = f"/v1/fine_tuning/checkpoints/{made}/permissions"
    given = watch.ask("POST", sharing, json={"project_ids": [other]})["data"][0]["id"]
    watch.ask("GET", sharing)
    watch.ask("DELETE", f"{sharing}/{given}")
    watch.ask("GET", "/v1/models")
    watch.ask("GET", f"/v1/models/{made}")
    watch.ask("DELETE", f"/v1/models/{made}")
    watch.ask("DELETE", f"/v1/files/{file}")
    return jobs, sharing


def test_every_answer_is_one_of_the_contract(watch, parts, released):  # noqa: F811
    new_key(parts, "other")
    with parts.database.write() as connection:
        query = "select id from projects where name = 'other'"
        other = connection.exec_driver_sql(query).scalar_one()
        # The job that comes with the model that chats was asked for by nobody.
        connection.execute(update(JOBS).values(method={"type": "supervised", "supervised": {}}))
    jobs, sharing = through_everything(watch, parts, other)
    watch.ask("POST", "/v1/chat/completions", json={"model": NAME, "messages": ASKED, "max_tokens": 4})
    assert watch.carried_out == set(ANSWERS)

    gone = "A" * 24
    for method, path, status, given in (
        ("POST", "/v1/files", 400, form(b"")),
        ("GET", "/v1/files?limit=0", 400, {}),
        ("GET", f"/v1/files/file-{gone}", 404, {}),
        ("GET", f"/v1/files/file-{gone}/content", 404, {}),
        ("DELETE", f"/v1/files/file-{gone}", 404, {}),
        ("POST", "/v1/uploads", 400, {"json": {}}),
        ("POST", f"/v1/uploads/upload_{gone}/parts", 404, {"files": {"data": b"x"}}),
        ("POST", f"/v1/uploads/upload_{gone}/complete", 404, {"json": {"part_ids": ["x"]}}),
        ("POST", f"/v1/uploads/upload_{gone}/cancel", 404, {}),
        ("POST", jobs, 400, {"json": {"model": "miniature"}}),
        ("POST", jobs, 400, {"content": b"{"}),
        ("GET", f"{jobs}?limit=101", 400, {}),
        ("GET", f"{jobs}/ftjob-{gone}", 404, {}),
        *(("POST", f"{jobs}/ftjob-{gone}/{verb}", 404, {}) for verb in ("cancel", "pause", "resume")),
        ("GET", f"{jobs}/ftjob-{gone}/events", 404, {}),
        ("GET", f"{jobs}/ftjob-{gone}/checkpoints", 404, {}),
        ("POST", sharing, 404, {"json": {"project_ids": ["x"]}}),
        ("GET", sharing, 404, {}),
        ("DELETE", f"{sharing}/cp_{gone}", 404, {}),
        ("GET", "/v1/models/nothing", 404, {}),
        ("DELETE", "/v1/models/nothing", 404, {}),
        ("POST", "/v1/chat/completions", 404, {"json": {"model": "ft:a:b::c", "messages": ASKED}}),
    ):
        watch.ask(method, path, status, **given)
    watch.http.headers["Authorization"] = "Bearer x"
    watch.ask("GET", "/v1/models", 401)
    assert watch.refused == set(ANSWERS)


def test_no_route_of_the_api_is_left_out():
    assert set(ROUTES) == set(ANSWERS) | OURS


@pytest.mark.parametrize(
    "change",
    [{"status": "done"}, {"object": "job"}, {"error": {"message": "x"}}, {"fine_tuned_model": "a"}, {"seed": None}],
)
def test_an_answer_outside_the_contract_is_found(client, change):
    file = client.files.create(file=("rows.jsonl", upload()), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="miniature", training_file=file.id).to_dict()
    jsonschema.validate(job, JOB)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job | change, JOB)
    for field in set(JOB["required"]):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({name: value for name, value in job.items() if name != field}, JOB)
