"""Messages about ended jobs: signed so that OpenAI's client takes them, tried again, and given up at last."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import openai
import pytest
from sqlalchemy import select, update

from mithridate.certificates import certificates
from mithridate.errors import UsageError
from mithridate.service import housekeeping, webhooks
from mithridate.service.database.tables import DELIVERIES, WEBHOOKS
from mithridate.service.routes import service_app
from mithridate.service.webhooks import WAITS, add_webhook, deliver_due
from tests.matrix.row import thinned
from tests.service.conftest import until, upload, work


@pytest.fixture
def receiver():
    """An address that keeps what it is sent, and answers as it is told."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            server.got.append((dict(self.headers), body))
            self.send_response(server.status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.got, server.status = [], 200
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.shutdown()


def ended(parts, client, *words):
    file = client.files.create(file=("rows.jsonl", upload(*words)), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="miniature", training_file=file.id)
    work(parts)
    return job.id


@pytest.fixture
def sent_by_hand(monkeypatch):
    """Only `due` sends: the server's own thread, sending at the same time, would make messages come twice."""
    monkeypatch.setattr(service_app, "deliver_until", lambda *_: None)


def due(parts):
    with parts.database.write() as connection:
        connection.execute(update(DELIVERIES).values(next_at=0))
    with httpx.Client(verify=certificates()) as client:
        return deliver_due(parts, client)


@pytest.mark.usefixtures("sent_by_hand")
@pytest.mark.parametrize(("words", "kind"), [((), "succeeded"), (("fail",), "failed")])
def test_openais_client_takes_our_messages(parts, client, receiver, words, kind):
    with parts.database.write() as connection:
        _, secret = add_webhook(connection, "default", f"http://127.0.0.1:{receiver.server_port}/hook")
        add_webhook(connection, "other", "http://127.0.0.1:9/never")
    job = ended(parts, client, *words)
    assert (due(parts), due(parts)) == (1, 0)
    ((headers, body),) = receiver.got
    event = client.webhooks.unwrap(body, headers, secret=secret)
    assert (event.type, event.data.id) == (f"fine_tuning.job.{kind}", job)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(body.replace(b"job", b"jab"), headers, secret=secret)


def test_the_server_sends_by_itself(parts, client, receiver):
    with parts.database.write() as connection:
        add_webhook(connection, "default", f"http://127.0.0.1:{receiver.server_port}/hook")
    ended(parts, client)
    until(lambda: receiver.got)


@pytest.mark.usefixtures("sent_by_hand")
def test_a_message_that_is_not_taken_is_tried_again_and_given_up_at_last(parts, client, receiver):
    with parts.database.write() as connection:
        add_webhook(connection, "default", f"http://127.0.0.1:{receiver.server_port}/hook")
    ended(parts, client)
    receiver.status = 500
    for _ in range(len(WAITS) + 3):
        due(parts)
    assert len(receiver.got) == len(WAITS) + 1
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    with parts.database.read() as connection:
        assert connection.execute(select(DELIVERIES)).one().failed_at is not None


@pytest.mark.usefixtures("sent_by_hand")
def test_an_address_that_is_away_does_not_stop_the_others(parts, client, receiver):
    with parts.database.write() as connection:
        add_webhook(connection, "default", "http://127.0.0.1:9/away")
        add_webhook(connection, "default", f"http://127.0.0.1:{receiver.server_port}/hook")
    ended(parts, client)
    assert due(parts) == len(receiver.got) == 1


@pytest.mark.usefixtures("sent_by_hand")
@pytest.mark.parametrize(
    "url", thinned(["http://xn--/", "http://[", "http://a:99999/", "gopher://a"], ["http://[", "http://a:99999/"])
)
def test_an_address_that_cannot_be_sent_to_does_not_stop_the_others(parts, client, receiver, url):
    """Such as an earlier version let in."""
    with parts.database.write() as connection:
        name, _ = add_webhook(connection, "default", "http://127.0.0.1:9/away")
        add_webhook(connection, "default", f"http://127.0.0.1:{receiver.server_port}/hook")
        connection.execute(update(WEBHOOKS).where(WEBHOOKS.c.id == name).values(url=url))
    ended(parts, client)
    assert due(parts) == len(receiver.got) == 1


def test_messages_are_sent_after_an_error(parts, monkeypatch, caplog):
    stop, rounds = threading.Event(), []

    def odd(*_):
        rounds.append(1)
        if len(rounds) == 2:
            stop.set()
        raise RuntimeError("odd")

    monkeypatch.setattr(webhooks, "deliver_due", odd)
    webhooks.deliver_until(parts, stop)
    assert len(rounds) == 2
    assert "odd" in caplog.text


def test_the_store_is_kept_tidy_after_an_error(parts, monkeypatch, caplog):
    stop, keeper = threading.Event(), housekeeping.Housekeeping(parts)
    rounds = []

    def odd():
        rounds.append(1)
        if len(rounds) == 2:
            stop.set()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(housekeeping, "PAUSE", 0.01)
    monkeypatch.setattr(keeper, "round", odd)
    keeper.until(stop)
    assert len(rounds) == 2
    assert "No space left" in caplog.text


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "example.org", "http://", "ftp://a/b", "http://xn--/", "http://[", "http://a:b/"]
)
def test_an_address_must_be_of_the_web(parts, url):
    with pytest.raises(UsageError), parts.database.write() as connection:
        add_webhook(connection, "default", url)
