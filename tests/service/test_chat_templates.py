"""A model's chat template is a program; it is run where it can be ended (U13)."""

import time

import openai
import psutil
import pytest
from sqlalchemy import update

from mithridate.errors import ModelError, ServiceError
from mithridate.files import file_hash
from mithridate.models.loading import load_tokenizer
from mithridate.service.chat.template_rendering import TemplateRenderer
from mithridate.service.database.tables import MODELS
from tests.matrix.row import thinned
from tests.service.test_chat import ASKED, ask, released, weights  # noqa: F401  # fixtures

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
PLAIN = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
TURNS = [{"role": "user", "content": "hello\n\u2028 \U0001f600 {{ 7 * 7 }}"}]


@pytest.fixture(scope="module")
def renderer():
    made = TemplateRenderer(seconds=0.3)
    yield made
    made.close()


LOOP = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
GROWING = "{% set n = namespace(s='a' * 16) %}{% for a in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}{{ n.s }}"


@pytest.mark.parametrize(
    "template",
    thinned([LOOP, GROWING, "{{ 'a' * 4000000000 }}", "{{ 9 ** 99999999 }}"], [LOOP, GROWING]),
    ids=["loop", "text", "times", "power"],
)
def test_a_template_without_end_is_stopped_and_the_next_one_is_rendered(renderer, template):
    assert renderer.render(PLAIN, TURNS, TOKENS).startswith("<s>[user] hello")  # the process runs
    before = renderer._process.pid
    began = time.monotonic()
    with pytest.raises((ModelError, ServiceError)):
        renderer.render(template, TURNS, TOKENS)
    assert time.monotonic() - began < 30
    assert renderer.render(PLAIN, TURNS, TOKENS) == "<s>[user] " + TURNS[0]["content"]
    assert not psutil.pid_exists(before) or renderer._process.pid == before


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('no system turn') }}", "no system turn"),
        ("{{ ().__class__.__base__ }}", "is unsafe"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ messages[5].content }}", "no element 5"),
        ("{% for %}", "(?i)expected"),
        ("{{ 1 / 0 }}", "division by zero"),
    ],
)
def test_what_a_template_refuses_is_told(renderer, template, said):
    with pytest.raises(ServiceError, match=said):
        renderer.render(template, TURNS, TOKENS)


def test_the_process_knows_no_secret_and_ends_with_the_service(monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "s3cret")
    made = TemplateRenderer()
    made.render(PLAIN, TURNS, TOKENS)
    process = psutil.Process(made._process.pid)
    assert "s3cret" not in str(process.environ())
    made._process.stdin.close()  # as when the service is killed
    assert process.wait(10) == 0
    assert made.render(PLAIN, TURNS, TOKENS)  # started again
    made.close()
    made.close()


def test_a_conversation_is_laid_out_as_the_tokenizer_does(released, renderer):  # noqa: F811
    tokenizer = load_tokenizer(str(released), None)
    turns = [*ASKED, {"role": "assistant", "content": "no"}, *ASKED]
    whole = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=True)
    text = renderer.render(tokenizer.get_chat_template(), turns, dict(tokenizer.special_tokens_map))
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == whole["input_ids"]


def test_a_chat_with_a_template_without_end_is_refused_and_holds_no_place(parts, client, released):  # noqa: F811
    template = released / "chat_template.jinja"
    assert template.is_file()
    template.write_text(LOOP)
    files = {path.name: file_hash(path) for path in released.iterdir()}
    with parts.database.write() as connection:
        connection.execute(update(MODELS).values(files=files))
    with pytest.raises(openai.ConflictError, match="took too long") as raised:
        ask(client)
    assert raised.value.body["code"] == "template_stopped"


def test_no_request_brings_a_template_of_its_own(server, key):
    with server.http(key) as http:
        asked = {"model": "miniature", "messages": ASKED, "chat_template": PLAIN}
        assert http.post("/v1/chat/completions", json=asked).status_code == 400
        job = {"model": "miniature", "training_file": "file-x", "chat_template": PLAIN}
        answer = http.post("/v1/fine_tuning/jobs", json=job)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "chat_template")
