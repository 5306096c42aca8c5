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


def test_every_planned_test_has_a_row_and_every_file_that_is_named_is_there():
    page = (DOCS / "reliability.md").read_text()
    table = page.partition("<!-- service -->")[2].partition("<!-- /service -->")[0]
    numbers = re.findall(r"^\| ([UJASG]\d+) \|", table, re.MULTILINE)
    planned = {"U": 13, "J": 15, "A": 5, "S": 8, "G": 6}
    assert numbers == [f"{group}{number}" for group, most in planned.items() for number in range(1, most + 1)]
    folder = None
    for name in re.findall(r"`([\w/]+\.py|[\w/]*tests/[\w/]+)`", table):
        if name.startswith("tests/"):
            folder = (DOCS.parent / name).parent
            assert (DOCS.parent / name).exists(), name
        else:  # beside the one that was named last
            assert folder is not None
            assert (folder / name).is_file(), name
    for module in re.findall(r"python -m (benchmarks[\w.]*)", table):
        assert (DOCS.parent / Path(*module.split("."))).with_suffix(".py").is_file(), module
