"""Who may do what: every route, as the app itself has it, with every kind of key."""

import json
import logging
import re
import statistics
import time

import pytest
from fastapi.routing import APIRoute

from mithridate.service.contract.object_ids import KINDS
from mithridate.service.keys.api_keys import create_key, revoke_key
from mithridate.service.routes.service_app import ROUTERS
from mithridate.service.service_log import JsonLines
from tests.service.conftest import Server, make_parts, new_key, upload, work

OPEN = {("GET", "/healthz"), ("GET", "/readyz")}
ADMIN = {("GET", "/metrics"), ("GET", "/v1/service/audit"), ("GET", "/v1/service/policy")}
OBJECTS = {
    ("GET", "/v1/files/{file_id}"), ("GET", "/v1/files/{file_id}/content"), ("DELETE", "/v1/files/{file_id}"),
    ("POST", "/v1/uploads/{upload_id}/parts"), ("POST", "/v1/uploads/{upload_id}/complete"),
    ("POST", "/v1/uploads/{upload_id}/cancel"), ("GET", "/v1/fine_tuning/jobs/{job_id}"),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/cancel"), ("POST", "/v1/fine_tuning/jobs/{job_id}/pause"),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/resume"), ("GET", "/v1/fine_tuning/jobs/{job_id}/events"),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/checkpoints"), ("GET", "/v1/fine_tuning/jobs/{job_id}/decision"),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/report"), ("GET", "/v1/models/{model:path}"),
    ("DELETE", "/v1/models/{model:path}"), ("POST", "/v1/fine_tuning/checkpoints/{model}/permissions"),
    ("GET", "/v1/fine_tuning/checkpoints/{model}/permissions"),
    ("DELETE", "/v1/fine_tuning/checkpoints/{model}/permissions/{permission_id}"),
    ("POST", "/v1/chat/completions"),
}  # fmt: skip
LISTS = {("GET", "/v1/files"), ("GET", "/v1/fine_tuning/jobs"), ("GET", "/v1/models")}
CREATES = {("POST", "/v1/files"), ("POST", "/v1/uploads"), ("POST", "/v1/fine_tuning/jobs")}
ROUTES = sorted(
    (method, route.path)
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute)
    for method in route.methods
)


def test_every_route_has_a_row():
    assert set(ROUTES) == OPEN | ADMIN | OBJECTS | LISTS | CREATES


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A service in which one project owns one of everything, and a worker has run its job."""
    parts = make_parts(tmp_path_factory.mktemp("access") / "service")
    server = Server(parts)
    owner = server.client(new_key(parts, "owner"))
    file = owner.files.create(file=("rows.jsonl", upload()), purpose="fine-tune")
    job = owner.fine_tuning.jobs.create(model="miniature", training_file=file.id)
    work(parts)
    made = owner.uploads.create(filename="r", purpose="fine-tune", bytes=100, mime_type="text/jsonl")
    model = owner.fine_tuning.jobs.retrieve(job.id).fine_tuned_model
    with parts.database.write() as connection:
        revoked = create_key(connection, "owner", "old", "write")
        revoke_key(connection, revoked.id)
    keys = {
        "none": None, "unknown": "mk-" + "a" * 43, "nonsense": "x y", "revoked": revoked.secret,
        "read": new_key(parts, "owner", "read"), "write": new_key(parts, "owner"),
        "admin": new_key(parts, "owner", "admin"), "other": new_key(parts, "other"),
    }  # fmt: skip
    ids = {"file_id": file.id, "job_id": job.id, "upload_id": made.id, "model": model, "model:path": model}
    yield server, keys, ids
    server.close()


def ask(server, key, method, path, ids):
    path = re.sub(r"\{([\w:]+)\}", lambda found: ids.get(found[1], "cp_none"), path)
    body = None
    if path.endswith("/chat/completions"):
        body = {"model": ids["model"], "messages": [{"role": "user", "content": "hello"}]}
    elif path.endswith("/complete"):
        body = {"part_ids": ["part_none"]}
    elif path.endswith("/permissions") and method == "POST":
        body = {"project_ids": ["proj_none"]}
    with server.http() as http:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        if path.endswith("/parts"):
            return http.post(path, files={"data": b"x"}, headers=headers)
        return http.request(method, path, json=body, headers=headers)


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if route not in OPEN])
def test_no_route_answers_whom_it_should_not(house, method, path):
    server, keys, ids = house
    for bad in ("none", "unknown", "nonsense", "revoked"):
        answer = ask(server, keys[bad], method, path, ids)
        assert answer.status_code == 401, bad
        assert answer.json()["error"]["type"] == "authentication_error"
    if (method, path) in ADMIN:
        for one in ("read", "write", "other"):
            assert ask(server, keys[one], method, path, ids).status_code == 403
        assert ask(server, keys["admin"], method, path, ids).status_code == 200
        return
    if method != "GET":
        assert ask(server, keys["read"], method, path, ids).status_code == 403
    if (method, path) in OBJECTS:
        answer = ask(server, keys["other"], method, path, ids)
        assert answer.status_code == 404
        # Another's object and one that does not exist: the same words.
        nobody = {name: _other(one) for name, one in ids.items()}
        unknown = ask(server, keys["other"], method, path, nobody)
        assert _without_ids(unknown.text) == _without_ids(answer.text)
    if method == "GET":
        assert ask(server, keys["read"], method, path, ids).status_code == 200


def _other(name):
    start = next((start for start in KINDS.values() if name.startswith(start)), None)
    return "ft:miniature:local::AAAAAAAA" if start is None else start + "A" * 24


def _without_ids(text):
    return re.sub(r"'[^']*'", "''", text)


def test_another_projects_lists_are_empty(house):
    server, keys, _ = house
    for _, path in sorted(LISTS):
        listed = ask(server, keys["other"], "GET", path, {}).json()["data"]
        assert [one["id"] for one in listed] == (["miniature"] if path == "/v1/models" else [])


def test_an_unknown_and_another_projects_object_take_as_long(house):
    server, keys, ids = house
    with server.http(keys["other"]) as http:
        took = {name: [] for name in (ids["job_id"], "ftjob-" + "A" * 24)}
        for _ in range(60):
            for name, times in took.items():
                began = time.perf_counter()
                assert http.get(f"/v1/fine_tuning/jobs/{name}").status_code == 404
                times.append(time.perf_counter() - began)
    one, other = (statistics.median(times) for times in took.values())
    assert abs(one - other) <= 0.2 * max(one, other) + 0.001


def test_a_shared_model_is_the_other_projects_to_use_until_it_is_taken_back(house):
    server, keys, ids = house
    owner, other = server.client(keys["write"]), server.client(keys["other"])
    with server.parts.database.read() as connection:
        query = "select id from projects where name = 'other'"
        project = connection.exec_driver_sql(query).scalar_one()
    admin = owner.fine_tuning.checkpoints.permissions
    (made,) = admin.create(ids["model"], project_ids=[project]).data
    assert other.models.retrieve(ids["model"]).id == ids["model"]
    assert [one.id for one in admin.list(ids["model"])] == [made.id]
    assert admin.delete(made.id, fine_tuned_model_checkpoint=ids["model"]).deleted
    assert ask(server, keys["other"], "GET", "/v1/models/{model}", ids).status_code == 404


def test_no_secret_is_kept_or_told(house, caplog):
    server, keys, ids = house
    with caplog.at_level(logging.DEBUG):
        for path in ("/v1/files", "/v1/nothing", f"/v1/models/{keys['write']}"):
            ask(server, keys["write"], "GET", path, ids)
    shown = [JsonLines().format(record) for record in caplog.records if record.name.startswith("mithridate")]
    assert shown
    secrets = [key for key in keys.values() if key and key.startswith("mk-")]
    stored = b"".join(path.read_bytes() for path in server.parts.settings.folder.rglob("*") if path.is_file())
    for secret in secrets:
        assert not any(secret in line for line in shown)
        assert secret.encode() not in stored


def test_a_record_is_one_line_without_keys():
    record = logging.LogRecord("x", logging.INFO, "", 0, "a\r\nb\x1b[31m %s", ("mk-" + "k" * 43,), None)
    record.extra = {"name": "c\nd"}
    line = JsonLines().format(record)
    assert line.isprintable()
    assert json.loads(line)["message"] == "a\r\nb\x1b[31m [key]"


def test_a_page_of_a_job_runs_no_script(house):
    server, keys, ids = house
    answer = ask(server, keys["read"], "GET", "/v1/fine_tuning/jobs/{job_id}/report", ids)
    assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


def test_nothing_in_a_request_makes_the_service_call_out(house, monkeypatch):
    import socket

    server, keys, _ = house
    port = int(server.url.rpartition(":")[2])
    called = []
    plain = socket.socket.connect

    def guarded(self, address):
        if address[1] != port:
            called.append(address)
        return plain(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    url = "http://127.0.0.1:9/x"
    client = server.client(keys["write"])
    file = client.files.create(file=(url, upload(url)), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="miniature", training_file=file.id, suffix=url, metadata={url: url})
    bodies = [
        {"model": url, "training_file": url},
        {"model": "miniature", "training_file": file.id, "validation_file": url},
        {
            "model": "miniature",
            "training_file": file.id,
            "integrations": [{"type": "wandb", "wandb": {"project": url}}],
        },
    ]
    with server.http(keys["write"]) as http:
        for body in bodies:
            assert http.post("/v1/fine_tuning/jobs", json=body).status_code == 400
    client.fine_tuning.jobs.cancel(job.id)
    assert called == []
