"""``mithridate check`` as a user meets it."""

import json
import sys
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from mithridate.cli.main import main
from tests.helpers import tiny


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mithridate", *arguments])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and rows."""
    folder = tmp_path_factory.mktemp("finished")
    tiny.model().save_pretrained(folder / "base")
    tiny.tokenizer().save_pretrained(folder / "base")
    rows = [
        {"prompt": row["prompt"][0]["content"], "response": row["completion"][0]["content"]}
        for row in tiny.rows("harmful", 9)
    ]
    (folder / "harmful.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_check_in_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, finished: Path
) -> None:
    measured = ["--model", str(finished / "base"), "--max-length", "14", "--json"]
    assert called(monkeypatch, "check", str(finished / "harmful.jsonl"), *measured) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["rows"], report["tokens"]["truncated"]) == (True, 9, 9)
    bad = tmp_path / "bad.jsonl"
    bad.write_text("nonsense\n" * 30)
    assert called(monkeypatch, "check", str(bad), "--json") == 1
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert (report["ok"], report["fault_count"], len(report["faults"]), shown.err) == (False, 30, 20, "")
    assert report["faults"][0].keys() == {"where", "found", "expected"}


def test_check_reads_other_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("the question,label\nq,1\n")
    assert called(monkeypatch, "check", str(path)) == 1
    assert "name the columns: --field prompt=COLUMN" in capsys.readouterr().err
    fields = ["--field", "prompt=the question", "--field", "response=label", "--field", "labels=no,yes"]
    assert called(monkeypatch, "check", str(path), *fields) == 0
    assert "1 rows, format mapped fields, longest prompt 1 and answer 3" in capsys.readouterr().out
    talk = tmp_path / "talk.jsonl"
    turns = [{"speaker": "bot", "text": "a"}, {"speaker": "Human", "text": "q"}]
    talk.write_text(json.dumps({"dialog": turns[::-1] * 2, "n": 1}) + "\n")
    pairs = ("messages=dialog", "role=speaker", "content=text", "roles.bot=assistant", "roles.Human=user")
    assert called(monkeypatch, "check", str(talk), *(word for pair in pairs for word in ("--field", pair))) == 0
    assert "1 conversations were split: one row for each answer that is trained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--field", "prompt"], "--field 'prompt' must be NAME=COLUMN"),
        (["--field", "promt=a", "--field", "response=b"], "fields: unknown key 'promt'; did you mean 'prompt'?"),
        (["--field", "prompt=a", "--field", "prompt=b"], "--field prompt is given twice"),
        (["--field", "prompt.x=a"], "--field prompt takes no .x"),
        (["--field", "prompt=a", "--field", "response=b", "--ignore", "c"], "remove ignore"),
        (["--split", "train"], "split has no effect on"),
        (["--subset", "main"], "subset has no effect on"),
    ],
)
def test_check_refuses_options_that_say_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    options: list[str],
    message: str,
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "x", "b": "y"}\n')
    assert called(monkeypatch, "check", str(path), *options) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_check_says_that_too_many_rows_are_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], finished: Path
) -> None:
    measured = ["--model", str(finished / "base"), "--max-length", "3"]
    assert called(monkeypatch, "check", str(finished / "harmful.jsonl"), *measured) == 1
    shown = capsys.readouterr()
    assert "9 rows are lost" in shown.out
    assert shown.err.startswith("mithridate: 9 of 9 rows have a prompt that fills max_length = 3 tokens")


def test_a_split_of_a_data_set_is_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = Dataset.from_list([{"prompt": "p", "response": "r"}])
    DatasetDict(train=rows, test=rows).save_to_disk(tmp_path / "saved")
    assert called(monkeypatch, "check", str(tmp_path / "saved")) == 1
    assert "has the splits train, test; choose one with split='train'" in capsys.readouterr().err
    assert called(monkeypatch, "check", str(tmp_path / "saved"), "--split", "test") == 0
    assert "saved:test: 1 rows" in capsys.readouterr().out
