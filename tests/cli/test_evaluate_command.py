"""`mithridate evaluate`: what it keeps, and the judges that can be named."""

import json
from pathlib import Path

import pytest

from mithridate.cli import evaluate
from mithridate.cli.named_judges import judge_named
from mithridate.errors import UsageError
from mithridate.evaluation.judges import ChatJudge, GuardJudge, RefusalJudge
from mithridate.evaluation.judges.endpoint import is_local
from mithridate.evaluation.judges.guard_forms import LlamaGuard
from tests.cli.conftest import Called
from tests.helpers.endpoint import completion, serving
from tests.helpers.vllm_stand_in import make_python


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_completions_and_verdicts_are_kept(
    call: Called, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harmful, user, out = str(finished / "harmful.jsonl"), str(finished / "user.jsonl"), tmp_path / "kept"
    asked = ["evaluate", str(finished / "adapter"), "--prompts", harmful, "--task", user]
    asked += ["--look-alikes", user, "--max-new-tokens", "4", "--json"]
    assert call(*asked, "--out", str(out)) == 0
    printed = json.loads(capsys.readouterr().out)
    assert sorted(path.name for path in out.iterdir()) == ["completions.jsonl", "summary.json", "verdicts.jsonl"]
    completions, verdicts = lines(out / "completions.jsonl"), lines(out / "verdicts.jsonl")
    by_set = {name: [row for row in verdicts if row["set"] == name] for name in ("harmful", "task", "look_alikes")}
    assert {name: len(rows) for name, rows in by_set.items()} == {"harmful": 9, "task": 9, "look_alikes": 9}

    def key(row: dict) -> tuple:
        return row["set"], row["prompt"], row["completion"]

    assert sorted(map(key, completions)) == sorted(map(key, verdicts))
    summary = json.loads((out / "summary.json").read_text())
    assert summary["scores"] == {name: score for name, score in printed.items() if name != "judge"}
    assert sum(row["harmful"] for row in by_set["harmful"]) / 9 == summary["scores"]["harmful_score"]["value"]
    assert sum(row["correct"] for row in by_set["task"]) / 9 == summary["scores"]["finetune_accuracy"]["value"]
    assert sum(row["refused"] for row in by_set["look_alikes"]) / 9 == summary["scores"]["over_refusal"]["value"]
    assert summary["asked"]["dtype"] == "auto"
    before = (out / "verdicts.jsonl").read_bytes()
    assert call(*asked, "--out", str(out)) == 2  # nothing is overwritten
    assert "is not empty" in capsys.readouterr().err
    assert (out / "verdicts.jsonl").read_bytes() == before


def test_two_processes_keep_what_one_keeps(
    call: Called, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harmful, user = str(finished / "harmful.jsonl"), str(finished / "user.jsonl")
    asked = ["evaluate", str(finished / "adapter"), "--prompts", harmful, "--task", user, "--look-alikes", user]
    for processes in ("1", "2"):
        out = str(tmp_path / processes)
        assert call(*asked, "--batch-size", "2", "--max-new-tokens", "4", "--launch", processes, "--out", out) == 0
    capsys.readouterr()
    for name in ("completions.jsonl", "verdicts.jsonl"):
        one, two = ((tmp_path / processes / name).read_bytes() for processes in ("1", "2"))
        assert one == two
    scores = [json.loads((tmp_path / processes / "summary.json").read_text())["scores"] for processes in ("1", "2")]
    assert scores[0] == scores[1]


def test_a_model_that_two_processes_cannot_load_is_told_once(
    call: Called, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harmful = str(finished / "harmful.jsonl")
    assert call("evaluate", str(finished / "no-model"), "--prompts", harmful, "--launch", "2") == 1
    assert capsys.readouterr().err.count("no-model") == 1


def test_completions_outlive_a_judge_that_fails(
    call: Called, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    asked = ["evaluate", str(finished / "base"), "--prompts", str(finished / "harmful.jsonl"), "--max-new-tokens", "2"]
    with serving(lambda _: completion("perhaps")) as server:
        assert call(*asked, "--judge", f"guard:llama-guard:{server.url}:g", "--out", str(tmp_path / "kept")) == 1
    assert "guard:g at http" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["completions.jsonl"]  # and no summary
    assert len(lines(tmp_path / "kept" / "completions.jsonl")) == 9


def test_a_guard_judges_on_the_command_line(
    call: Called, finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not to be sent")
    asked = ["evaluate", str(finished / "base"), "--prompts", str(finished / "harmful.jsonl"), "--max-new-tokens", "2"]
    with serving(lambda _: completion("unsafe\nS1")) as server:
        assert call(*asked, "--judge", f"guard:{server.url}:llama-guard3:8b", "--json") == 0
        assert server.requests[0]["model"] == "llama-guard3:8b"
        assert "Authorization" not in server.headers[0]
    printed = json.loads(capsys.readouterr().out)
    assert (printed["judge"], printed["harmful_score"]["value"]) == ("guard:llama-guard3:8b", 1.0)


@pytest.mark.parametrize(
    ("name", "url", "model"),
    [
        ("chat:http://localhost:8000/v1:m", "http://localhost:8000/v1", "m"),
        ("chat:http://localhost/v1:org/m:7b", "http://localhost/v1", "org/m:7b"),
        ("chat:http://[::1]:8000/v1:m", "http://[::1]:8000/v1", "m"),
        ("chat:http://10.0.0.5:80:m", "http://10.0.0.5:80", "m"),
        ("guard:http://127.0.0.1:8000/v1:llama-guard3:8b", "http://127.0.0.1:8000/v1", "llama-guard3:8b"),
        ("guard:llama-guard:http://vllm:8000/v1:my-guard", "http://vllm:8000/v1", "my-guard"),
    ],
)
def test_endpoints_are_named(name: str, url: str, model: str) -> None:
    judge = judge_named(name)
    assert isinstance(judge, ChatJudge | GuardJudge)
    assert judge._endpoint is not None
    assert (judge._endpoint.url, judge._endpoint.model) == (f"{url}/chat/completions", model)
    assert judge._endpoint._headers == {}
    if isinstance(judge, GuardJudge):
        assert isinstance(judge.form, LlamaGuard)


def test_keys_go_to_endpoints_that_are_not_local_or_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UsageError, match="OPENAI_API_KEY is not set"):
        judge_named("chat:https://api.openai.com/v1:m")
    monkeypatch.setenv("OPENAI_API_KEY", "a")
    monkeypatch.setenv("MINE", "b")

    def sent(judge: object) -> str | None:
        return judge._endpoint._headers.get("Authorization")  # type: ignore[attr-defined]

    assert sent(judge_named("chat:https://api.openai.com/v1:m")) == "Bearer a"
    assert sent(judge_named("chat:http://localhost/v1:m")) is None
    assert sent(judge_named("chat:http://localhost/v1:m", "MINE")) == "Bearer b"
    assert sent(judge_named("guard:qwen3guard:https://example.org/v1:m", "MINE")) == "Bearer b"


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://localhost:8000/v1", True), ("http://127.0.0.1/v1", True), ("http://127.8.9.1/v1", True),
        ("http://[::1]:8000/v1", True), ("http://10.1.2.3/v1", True), ("http://192.168.0.9:1/v1", True),
        ("http://172.16.0.1/v1", True), ("http://[fe80::1]/v1", True), ("http://[fd00::1]/v1", True),
        ("http://vllm:8000/v1", True), ("http://judge.local/v1", True), ("http://a.localhost/v1", True),
        ("https://api.openai.com/v1", False), ("http://8.8.8.8/v1", False), ("http://172.32.0.1/v1", False),
        ("https://localhost.example.org/v1", False), ("https://127.0.0.1.example.org/v1", False),
        ("https://localhost@example.org/v1", False), ("http://[2001:4860::1]/v1", False),
        ("https://10.0.0.1.nip.io/v1", False),
    ],
)  # fmt: skip
def test_what_is_local(url: str, local: bool) -> None:
    assert is_local(url) is local


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("guard", r"--judge is 'guard'; give refusal, .*guard:\[FORM:\]MODEL"),
        ("gaurd:m", "did you mean 'guard'"),
        ("guard:my-model", "the name 'my-model' does not tell what guard model it is"),
        ("chat:m", "--judge is 'chat:m'"),
        ("chat:http://localhost:8000/v1", "--judge is"),
        ("chat:ftp://localhost/v1:m", "--judge is"),
        ("refusal:x", "--judge is 'refusal:x'"),
        ("classifier:", "--judge is 'classifier:'"),
    ],
)
def test_judges_that_cannot_be(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        judge_named(name)


@pytest.mark.parametrize("name", ["refusal", "classifier:m", "guard:llama-guard:m"])
def test_a_key_for_a_judge_that_sends_none_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="--judge-key-env has no effect with"):
        judge_named(name, "MINE")


def test_rules_need_nothing() -> None:
    assert isinstance(judge_named("refusal"), RefusalJudge)


def test_a_broken_write_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError):
        evaluate._write_lines(tmp_path / "x.jsonl", [{"good": 1}, {"bad": object()}])
    assert not (tmp_path / "x.jsonl").exists()


@pytest.mark.slow
def test_vllm_keeps_what_transformers_keeps(
    call: Called, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_NOTES", str(tmp_path))
    monkeypatch.setenv("MITHRIDATE_VLLM", str(make_python(tmp_path)))
    harmful, user = str(finished / "harmful.jsonl"), str(finished / "user.jsonl")
    asked = ["evaluate", str(finished / "adapter"), "--prompts", harmful, "--task", user, "--look-alikes", user]
    asked += ["--max-new-tokens", "4"]
    for engine in ("transformers", "vllm"):
        assert call(*asked, "--engine", engine, "--out", str(tmp_path / engine)) == 0
    capsys.readouterr()
    for name in ("completions.jsonl", "verdicts.jsonl"):
        assert (tmp_path / "vllm" / name).read_bytes() == (tmp_path / "transformers" / name).read_bytes()
    one, two = (json.loads((tmp_path / engine / "summary.json").read_text()) for engine in ("transformers", "vllm"))
    assert (two["asked"]["engine"], two["versions"]) == ("vllm", one["versions"] | {"vllm": "9.9.9"})
    assert json.loads((tmp_path / "asked.json").read_text())["max_tokens"] == 16  # of the task, asked last


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "vlm"], "--engine is 'vlm'; it must be one of transformers, vllm"),
        (["--engine", "vllm", "--launch", "2"], "--engine vllm batches all prompts by itself; leave --launch out"),
        (["--engine", "vllm"], "set MITHRIDATE_VLLM to that environment's Python"),
    ],
)
def test_an_engine_that_cannot_answer_is_refused(
    call: Called,
    finished: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.delenv("MITHRIDATE_VLLM", raising=False)
    assert call("evaluate", str(finished / "adapter"), "--prompts", str(finished / "harmful.jsonl"), *options) == 2
    assert message in " ".join(capsys.readouterr().err.split())
