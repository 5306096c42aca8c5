"""The page for people: what it shows, what it takes, and to whom."""

import hashlib
import hmac
import json
import re
from contextlib import contextmanager
from html.parser import HTMLParser

import httpx
import pytest
from fastapi.routing import APIRoute
from sqlalchemy import update

from mithridate.service.database.tables import AUDIT, JOBS
from mithridate.service.keys.api_keys import revoke_key
from mithridate.service.pages.all_pages import PAGES
from mithridate.service.pages.loss_curve import loss_curves
from mithridate.service.pages.page_sessions import LIFETIME
from mithridate.service.policy_facts import POLICY, report
from tests.service.conftest import Server, make_parts, new_key, upload, work

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><svg onload=alert(3)>"


def token(page):
    return re.search(r'name="form_token" value="([0-9a-f]{64})"', page.text)[1]


def browser(server, **given):
    # Without certificates, which take longer to load than most of these tests do.
    return httpx.Client(base_url=server.url, timeout=30, verify=False, **given)


@contextmanager
def signed_in(server, key):
    with browser(server, follow_redirects=True) as http:
        answer = http.post("/sign-in", data={"key": key, "next": "/"})
        assert (answer.status_code, answer.url.path) == (200, "/")
        yield http


@pytest.fixture
def visitor(server, key):
    with signed_in(server, key) as http:
        yield http


@pytest.fixture
def operator(server, parts):
    with signed_in(server, new_key(parts, role="admin")) as http:
        yield http


def sent(http, content, name="rows.jsonl", form_token=None):
    fields = {"form_token": token(http.get("/files")) if form_token is None else form_token, "purpose": "fine-tune"}
    return http.post("/files", data=fields, files={"file": (name, content)})


def made(http, file, **fields):
    page = http.get("/jobs/new")
    once = re.search(r'name="once" value="(\w+)"', page.text)[1]
    given = {"form_token": token(page), "once": once, "model": "miniature", "training_file": file, **fields}
    return http.post("/jobs", data=given)


def test_a_person_goes_from_a_file_to_a_decision(parts, visitor):
    page = sent(visitor, upload("refused_at_upload"))
    assert page.url.path.startswith("/files/file-")
    assert "taken in" in page.text
    page = made(visitor, page.url.path.rpartition("/")[2], suffix="my task", n_epochs="2")
    assert page.status_code == 200, page.text
    assert "checking the files" in page.text
    assert '<meta http-equiv="refresh" content="5">' in page.text  # without JavaScript
    place = page.url.path
    work(parts)
    page = visitor.get(place)
    for shown in ("Refused at upload", "obedience: 1 of 12 rows", "obeys a harmful request", "Fine-tuning job started"):
        assert shown in page.text
    assert "refresh" not in page.text
    assert visitor.get(f"{place}/report").text == "<p>report</p>"
    assert visitor.get(f"{place}/decision").json() == {"outcome": "refused_at_upload"}
    assert "failed" in visitor.get("/").text


def test_a_released_model_is_named(parts, visitor):
    page = made(visitor, sent(visitor, upload()).url.path.rpartition("/")[2])
    work(parts)
    text = visitor.get(page.url.path).text
    assert "Released: as tuned" in text
    assert "ft:miniature:local::" in text
    assert "step_metrics.csv" in text


def test_losses_are_a_picture_and_a_table_and_bury_no_event(parts, visitor):
    file = sent(visitor, upload("second_training")).url.path.rpartition("/")[2]
    rows = [{"prompt": f"another question {number}", "completion": "answer"} for number in range(12)]
    other = sent(visitor, "\n".join(map(json.dumps, rows)).encode()).url.path.rpartition("/")[2]
    page = made(visitor, file, validation_file=other)
    assert "<svg" not in page.text
    work(parts)
    text = visitor.get(page.url.path).text
    assert text.count("<svg") == 2
    assert text.count("<polyline") == 3  # the second training has no validation
    assert "Training 2: loss in nats per token" in text
    assert "on the whole validation file 0.7000" in text
    assert re.search(r'<th scope="row" class="num">2</th><td class="num">0.2500</td>', text)
    events = text.partition('id="events"')[2]
    assert "Fine-tuning job started" in events
    assert "training loss" not in events


def test_losses_of_any_kind_can_be_drawn():
    """A loss of zero, a single step, steps out of order, and an event that is about no step."""
    (one,) = loss_curves([{"step": 1, "train_loss": 0.0, "total_steps": 1}, {"full_valid_loss": 1.0}])
    assert [tick.label for tick in one.across] == ["1"]
    assert one.lines[0].points == [(48.0, 190.0)]
    (two,) = loss_curves([{"step": 9, "train_loss": 1.0}, {"step": 3, "train_loss": 4.0}, {"step": 4}])
    assert [row["step"] for row in two.rows] == [3, 4, 9]
    assert two.lines[0].points[-1] == (626.0, 145.5)
    assert two.lines[0].points[0][1] == 12.0
    (none,) = loss_curves([{"step": 1}])
    assert none.lines == []
    assert loss_curves([]) == []


def test_rows_at_fault_are_shown_with_their_lines(visitor):
    page = sent(visitor, upload() + b'{"messages": []}\nnot json\n')
    assert "cannot be trained on" in page.text
    assert re.search(r'<th scope="row" class="num">14</th><td><code>invalid_json</code>', page.text)
    assert "Rows at fault: 2" in page.text
    # Nor can it be chosen for a job.
    assert page.url.path.rpartition("/")[2] not in visitor.get("/jobs/new").text


def test_a_job_is_changed_by_its_buttons(visitor):
    place = made(visitor, sent(visitor, upload()).url.path.rpartition("/")[2]).url.path
    for verb, state in (("pause", "paused"), ("resume", "waiting for a worker"), ("cancel", "cancelled")):
        page = visitor.get(place)
        assert f"{place}/{verb}" in page.text
        page = visitor.post(f"{place}/{verb}", data={"form_token": token(page)})
        assert f'">{state}</span>' in page.text
    page = visitor.post(f"{place}/pause", data={"form_token": token(visitor.get("/files"))})
    assert page.status_code == 400
    assert "is cancelled; one cannot pause it" in page.text


def test_a_form_that_is_sent_twice_makes_one_job(visitor):
    file = sent(visitor, upload()).url.path.rpartition("/")[2]
    first, second = (made(visitor, file, once="a" * 32) for _ in range(2))
    assert first.url == second.url


def test_a_job_that_cannot_be_made_keeps_what_was_filled_in(visitor):
    file = sent(visitor, upload()).url.path.rpartition("/")[2]
    for fields, said in (({"n_epochs": "11"}, "the policy allows up to 10"), ({"n_epochs": "many"}, "n_epochs")):
        page = made(visitor, file, suffix="kept", **fields)
        assert page.status_code == 400
        assert said in page.text
        assert 'value="kept"' in page.text


def test_a_file_is_deleted_and_saved(visitor):
    place = sent(visitor, upload()).url.path
    saved = visitor.get(f"{place}/content")
    assert saved.content == upload()
    assert saved.headers["content-disposition"].startswith("attachment")
    page = visitor.post(f"{place}/delete", data={"form_token": token(visitor.get(place))})
    assert page.url.path == "/files"
    assert visitor.get(place).status_code == 404


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def tags(text):
    parser = Tags()
    parser.feed(text)
    return parser.found


def test_nothing_that_a_customer_says_becomes_part_of_the_page(server, parts, operator):
    client = server.client(new_key(parts, role="admin"))
    hostile = json.dumps({"messages": [{"role": HOSTILE, "content": HOSTILE}]}).encode() + b"\n"
    bad = client.files.create(file=(HOSTILE, upload() + hostile), purpose="fine-tune")
    file = client.files.create(file=(f"x{HOSTILE}.jsonl", upload()), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="miniature", training_file=file.id, suffix=HOSTILE[:64], metadata={HOSTILE[:64]: HOSTILE}
    )
    work(parts)
    findings = [{"row": 3, "line": 3, "signals": [HOSTILE], "reason": HOSTILE}]
    decision = {
        "outcome": "refused_at_upload", "reasons": [HOSTILE], "released": None, "flagged": 1, "findings": findings,
        "policy": {"name": HOSTILE, "sha256": HOSTILE}, "report": "javascript:alert(1)", "decision": None,
    }  # fmt: skip
    error = {
        "code": "x",
        "message": HOSTILE,
        "rows": [{"line": 1, "code": HOSTILE, "message": HOSTILE}],
        "row_count": 1,
    }
    with parts.database.write() as connection:
        report(connection, POLICY, HOSTILE)
        parts.audit.add(connection, HOSTILE, "policy.loaded", HOSTILE, name=HOSTILE, sha256=HOSTILE, fault=HOSTILE)
    places = ["/", "/files", "/policy", "/audit", "/keys", f"/files/{bad.id}", f"/files/{file.id}", f"/jobs/{job.id}"]
    for values in ({"decision": decision, "error": error}, {"decision": None, "error": error}):
        with parts.database.write() as connection:
            connection.execute(update(JOBS).values(state="failed", **values))
        for place in places:
            page = operator.get(place)
            assert page.status_code == 200
            assert "script-src 'self'" in page.headers["content-security-policy"]
            found = tags(page.text)
            assert [one for one in found if one[0] == "script"] == [
                ("script", {"src": "/static/service.js", "defer": None})
            ]
            # The one picture is our own: a customer's would have no class of ours, or something to run.
            pictures = [given for name, given in found if name in ("img", "svg")]
            assert all(set(given) == {"class", "viewbox", "role", "aria-labelledby"} for given in pictures)
            assert all(given["class"] == "losses" for given in pictures)
            assert not [name for _, given in found for name in given if name.startswith("on")]
            assert "javascript:" not in "".join(str(given.get("href")) for _, given in found)
    assert "&lt;script&gt;" in operator.get(f"/jobs/{job.id}").text
    refused = made(operator, HOSTILE, model=HOSTILE)
    assert refused.status_code == 400
    assert "<img" not in refused.text


def test_every_page_can_be_used_by_keyboard_and_screen_reader(server, parts, operator):
    place = made(operator, sent(operator, upload()).url.path.rpartition("/")[2]).url.path
    file = sent(operator, upload() + b"x\n").url.path
    signed_out = browser(server).get("/sign-in")
    others = [operator.get(p) for p in ("/", "/files", "/jobs/new", "/policy", "/audit", "/keys", place, file)]
    for page in (signed_out, *others):
        found = tags(page.text)
        names = [tag for tag, _ in found]
        assert names.count("h1") == names.count("main") == names.count("title") == 1
        assert found[0] == ("html", {"lang": "en"})
        labeled = {given["for"] for tag, given in found if tag == "label"}
        for tag, given in found:
            if tag in ("input", "select") and given.get("type") != "hidden":
                assert given["id"] in labeled
            if tag == "progress":
                assert given.get("id") in labeled or given["aria-label"]
        assert names.count("caption") + page.text.count('class="plain"') == names.count("table")
        assert "#content" in {given.get("href") for _, given in found}
        assert all(given.get("scope") for tag, given in found if tag == "th")
        ids = [given["id"] for _, given in found if "id" in given]
        assert len(ids) == len(set(ids))
        marks = {given["aria-labelledby"] for _, given in found if "aria-labelledby" in given}
        assert marks <= set(ids)


ROUTES = sorted(
    (method, route.path)
    for router in PAGES
    for route in router.routes
    if isinstance(route, APIRoute)
    for method in route.methods
)
OPEN = {("GET", "/sign-in"), ("POST", "/sign-in"), ("POST", "/sign-out"), ("GET", "/static/service.css"),
        ("GET", "/static/service.js")}  # fmt: skip
OPERATORS = {("GET", "/policy"), ("GET", "/audit"), ("GET", "/keys"), ("POST", "/keys"),
             ("POST", "/keys/{key_id}/revoke")}  # fmt: skip


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A service in which one project owns a file and a job, with a session of each kind."""
    parts = make_parts(tmp_path_factory.mktemp("pages") / "service")
    server = Server(parts)
    owner = server.client(new_key(parts, "owner"))
    file = owner.files.create(file=("rows.jsonl", upload()), purpose="fine-tune").id
    job = owner.fine_tuning.jobs.create(model="miniature", training_file=file).id
    reader, other, operator = new_key(parts, "owner", "read"), new_key(parts, "other"), new_key(parts, role="admin")
    with (
        browser(server) as nobody,
        signed_in(server, reader) as reader,
        signed_in(server, other) as other,
        signed_in(server, operator) as operator,
    ):
        yield file, job, nobody, reader, other, operator
    server.close()


def path_of(path, file, job, key):
    return path.format(file_id=file, job_id=job, key_id=key, verb="cancel")


@pytest.mark.parametrize(("method", "path"), [one for one in ROUTES if one not in OPEN])
def test_no_page_is_for_whom_it_should_not_be(house, method, path):
    file, job, nobody, reader, other, _ = house
    place = path_of(path, file, job, "key_" + "A" * 24)

    def ask(http, place, form_token):
        return http.request(method, place, data={"form_token": form_token} if method == "POST" else None)

    answer = nobody.request(method, place)
    assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/sign-in")
    answer = ask(reader, place, reader_token(reader))
    if method == "POST" or (method, path) in OPERATORS:
        assert answer.status_code == 403
    else:
        assert answer.status_code == (404 if path.endswith(("/report", "/decision")) else 200)
    own = token(other.get("/files"))
    answer = ask(other, place, own)
    if (method, path) in OPERATORS:
        assert answer.status_code == 403
    elif "{" in path:
        assert answer.status_code == 404
        unknown = ask(other, path_of(path, "file-" + "A" * 24, "ftjob-" + "A" * 24, ""), own)
        # Another's object and one that does not exist: the same words.
        assert without_ids(unknown) == without_ids(answer)
    elif method == "GET":
        assert file not in answer.text
        assert job not in answer.text


def without_ids(page):
    return re.sub(r"(file|ftjob)-\w{24}", "", page.text)


def reader_token(http):
    """The token of a session whose pages hold no form that needs one."""
    return hmac.new(http.cookies["mithridate_session"].encode(), b"form", hashlib.sha256).hexdigest()


@pytest.mark.parametrize(("method", "path"), [one for one in ROUTES if one[0] == "POST" and one not in OPEN])
def test_no_form_is_taken_from_elsewhere(house, method, path):
    operator = house[-1]
    place = path_of(path, "file-x", "ftjob-x", "key_x")
    form = {"form_token": token(operator.get("/files"))}
    foreign = [{"Origin": one} for one in ("https://evil.example", "null", "http://[", "http://[::1", "")]
    # A damaged origin has no host, and that is not the host which nobody named.
    foreign += [{"Origin": one, "Host": ""} for one in ("http://[", "null")]
    for headers in (*foreign, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}):
        answer = operator.post(place, data=form, headers=headers)
        assert answer.status_code == 403
        assert "came from another site" in answer.text
    for wrong in ("", "0" * 64, "ä"):
        if path == "/files":
            answer = sent(operator, upload(), form_token=wrong)
        else:
            answer = operator.post(place, data={"form_token": wrong})
        assert answer.status_code == 403
        assert "not of this session" in answer.text


def test_signing_in_from_another_site_is_refused(server, key):
    with browser(server) as http:
        answer = http.post("/sign-in", data={"key": key}, headers={"Origin": "https://evil.example"})
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("trusted", "scheme", "secure"),
    [("*", "https", True), ("*", "http", False), ("127.0.0.1", "https", True), ("10.1.2.3", "https", False)],
)
def test_the_cookie_is_secure_behind_a_proxy_that_is_trusted(parts, key, monkeypatch, trusted, scheme, secure):
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", trusted)
    server = Server(parts)
    with browser(server) as http:
        answer = http.post("/sign-in", data={"key": key}, headers={"X-Forwarded-Proto": scheme})
    server.close()
    assert ("Secure" in answer.headers["set-cookie"].split("; ")) is secure


def test_strangers_do_not_wait_for_the_write_lock_nor_take_it(server, parts):
    stranger = {"Cookie": "mithridate_session=unknown"}
    with browser(server) as http, parts.database.write():
        for bad in ("", "mk-" + "a" * 43):
            assert http.post("/sign-in", data={"key": bad}, timeout=10).status_code == 401
        for headers in ({}, stranger):
            answer = http.post("/sign-out", headers=headers, timeout=10)
            assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")


def test_a_page_that_is_asked_for_too_often_says_when_to_come_back(tmp_path):
    parts = make_parts(tmp_path / "slow", uses={"requests_per_minute": 10})
    server = Server(parts)
    with signed_in(server, new_key(parts)) as http:
        answers = [http.get("/") for _ in range(11)]
    server.close()
    refused = answers[-1]
    assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (429, True)
    assert "asks too often" in refused.text
    assert "<h1>" in refused.text


def test_the_cookie_is_kept_from_scripts_and_other_sites(server, key):
    with browser(server) as http:
        cookie = http.post("/sign-in", data={"key": key}).headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/", f"Max-Age={LIFETIME}"} <= set(cookie.split("; "))
    assert key not in cookie


def test_a_session_ends(server, parts, key, visitor, monkeypatch):
    cookie = visitor.cookies["mithridate_session"]
    assert visitor.post("/sign-out").url.path == "/sign-in"
    with browser(server, cookies={"mithridate_session": cookie}) as stolen:
        assert stolen.get("/").status_code == 303
    with signed_in(server, key) as http, parts.database.write() as connection:
        caller = connection.exec_driver_sql("select id from keys where name = 'test'").scalars().first()
        revoke_key(connection, caller)
        connection.commit()
        assert http.get("/").url.path == "/sign-in"
    with signed_in(server, new_key(parts)) as http:
        monkeypatch.setattr("mithridate.service.pages.page_sessions.now", lambda: 2**33)
        assert http.get("/").url.path == "/sign-in"


def test_sessions_are_kept_as_hashes(parts, visitor):
    cookie = visitor.cookies["mithridate_session"]
    with parts.database.read() as connection:
        rows = connection.exec_driver_sql("select * from page_sessions").all()
    assert rows
    assert cookie not in str(rows)


@pytest.mark.parametrize("bad", ["", "mk-" + "a" * 43, HOSTILE])
def test_a_wrong_key_opens_nothing(server, bad):
    with browser(server) as http:
        answer = http.post("/sign-in", data={"key": bad})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert "unknown or revoked" in answer.text
    assert bad == "" or bad not in answer.text


@pytest.mark.parametrize("place", ["//evil.example", "https://evil.example", "/\\evil.example", "/jobs/../x", "\n/"])
def test_signing_in_leads_to_no_other_site(server, key, place):
    with browser(server) as http:
        assert http.post("/sign-in", data={"key": key, "next": place}).headers["location"] == "/"
        assert http.post("/sign-in", data={"key": key, "next": "/files"}).headers["location"] == "/files"


def test_a_key_is_made_shown_once_and_revoked(server, parts, operator):
    page = operator.get("/keys")
    form = {"form_token": token(page), "project": "lab", "name": "new one", "role": "write"}
    page = operator.post("/keys", data=form)
    secret = re.search(r"mk-[\w-]{43}", page.text)[0]
    assert server.client(secret).files.list().data == []
    page = operator.get("/keys")
    assert secret not in page.text
    name = re.search(r"/keys/(key_\w+)/revoke\".*?Revoke new one", page.text, re.DOTALL)
    name = re.findall(r"/keys/(key_\w{24})/revoke", page.text[: name.end()])[-1]
    page = operator.post(f"/keys/{name}/revoke", data={"form_token": token(page)})
    assert "revoked <time" in page.text
    with server.http(secret) as http:
        assert http.get("/v1/files").status_code == 401
    page = operator.post("/keys", data=form | {"project": HOSTILE})
    assert page.status_code == 400
    assert "project must be" in page.text
    own = operator.get("/audit").text
    assert "key.create" in own
    assert "key.revoke" in own


def test_nobody_revokes_the_key_they_have_signed_in_with(parts, operator):
    with parts.database.read() as connection:
        own = connection.exec_driver_sql("select id from keys where role = 'admin'").scalar_one()
    page = operator.post(f"/keys/{own}/revoke", data={"form_token": token(operator.get("/keys"))})
    assert page.status_code == 400
    assert "signed in with" in page.text


def test_the_audit_log_says_whether_it_is_whole(parts, operator, monkeypatch):
    assert "was altered, removed or moved" in operator.get("/audit").text
    monkeypatch.setattr("mithridate.service.pages.operator_pages._CHECKED", 0)
    assert "not checked now" in operator.get("/audit").text
    with parts.database.write() as connection:
        connection.execute(update(AUDIT).where(AUDIT.c.seq == 1).values(actor="nobody"))
    assert "entry 1 was altered" in operator.get("/audit?check=true").text


def test_the_policy_and_its_history_are_shown(parts, operator):
    with parts.database.write() as connection:
        for sha256 in ("a" * 64, "b" * 64):
            parts.audit.add(connection, "operator", "policy.loaded", "policy", fault=None, name="tiny", sha256=sha256)
    page = operator.get("/policy").text
    assert "In force: tiny" in page
    assert page.index("b" * 64) < page.index("a" * 64)
    assert page.count("<b>changed</b>") == 1


def test_a_change_is_seen_over_loads_that_failed(parts, operator):
    loads = ["a" * 64, None, "b" * 64, None, None, "b" * 64, "a" * 64]
    with parts.database.write() as connection:
        for sha256 in loads:
            known = {"fault": "the policy cannot act"} if sha256 is None else {"fault": None, "sha256": sha256}
            parts.audit.add(connection, "operator", "policy.loaded", "policy", **known)
    rows = re.findall(r"<tr><th scope=\"row\"><time.*?</tr>", operator.get("/policy").text, re.DOTALL)
    assert len(rows) == len(loads)
    assert ["changed" in row for row in reversed(rows)] == [False, False, True, False, False, False, True]


def test_a_file_that_is_too_large_is_refused_with_a_page(tmp_path):
    parts = make_parts(tmp_path / "small", sizes={"file_bytes": 100})
    server = Server(parts)
    with signed_in(server, new_key(parts)) as http:
        page = sent(http, upload())
    server.close()
    assert page.status_code == 413
    assert "Not done" in page.text
    assert list((parts.settings.folder / "staging").iterdir()) == []


def test_damaged_requests_get_a_page(operator):
    for answer, status in (
        (operator.get("/audit?before=x"), 400),
        (operator.get("/files?after=file-none"), 400),
        (operator.post("/jobs", content=b"\xff\xfe=\xff", headers={"content-type": "x"}), 400),
        (operator.post("/files", content=b"nothing"), 400),
        (operator.get("/jobs/nothing"), 404),
    ):
        assert answer.status_code == status
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert '<div class="alert" role="alert">' in answer.text
        assert re.search("<h1>(Not done|There is no such page)</h1>", answer.text)
