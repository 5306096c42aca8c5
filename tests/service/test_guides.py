"""What the service's guides show does what they say."""

import re
from pathlib import Path

import yaml

from mithridate.service.service_settings import ServiceSettings
from tests.service.conftest import upload

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page, kind):
    return re.findall(rf"^```{kind}[^\n]*\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def test_the_client_code_shows_a_refusal_and_a_release(server, key, worker, tmp_path, monkeypatch, capsys):
    code = [line for line in blocks("service.md", "python")[0].splitlines() if line]
    assert len(code) == 10
    folder = tmp_path / "runs" / "tune-demo" / "uploads"
    folder.mkdir(parents=True)
    (folder / "harmful.jsonl").write_bytes(upload("refused_at_upload"))
    (folder / "poisoned.jsonl").write_bytes(upload())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    # The pipeline of these tests makes no model that could answer; the chat is tested elsewhere.
    names = {}
    exec(compile("\n".join(code[:-2]), "service.md", "exec"), names)
    names["client"].close()
    refused, released = capsys.readouterr().out.splitlines()
    assert refused.startswith("harmful failed the upload was refused")
    assert "line 3: 1 row flagged" in refused
    assert released.startswith("poisoned succeeded ft:miniature:local::")
    assert "client.chat.completions.create(model=job.fine_tuned_model" in code[-1]


def test_the_settings_shown_are_valid_and_complete():
    tree = yaml.safe_load(blocks("service-operate.md", "yaml")[0])
    ServiceSettings.model_validate(tree)
    assert set(tree) == set(ServiceSettings.model_fields)


def test_every_code_of_a_failure_is_explained():
    source = Path(__file__).parents[2] / "src" / "mithridate" / "service" / "worker"
    text = "".join(path.read_text() for path in source.glob("*.py"))
    told = set(
        re.findall(r'(?:"|code=")((?:judge|model|storage|sandbox|policy|worker|file|upload|release)_[a-z]+)"', text)
    )
    codes = {
        code for code in told if code.endswith(("_refused", "_unavailable", "_error", "_full", "_lost", "_integrity"))
    }
    page = (DOCS / "service.md").read_text()
    assert codes
    assert {code for code in codes if f"`{code}`" not in page} == set()
