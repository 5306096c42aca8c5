"""``mithridate check`` as a user meets it."""

import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from tests.cli.conftest import Called


def test_check_in_json(call: Called, capsys: pytest.CaptureFixture[str], tmp_path: Path, finished: Path) -> None:
    measured = ["--model", str(finished / "base"), "--max-length", "14", "--json"]
    assert call("check", str(finished / "harmful.jsonl"), *measured) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["rows"], report["tokens"]["truncated"]) == (True, 9, 9)
    bad = tmp_path / "bad.jsonl"
    bad.write_text("nonsense\n" * 30)
    assert call("check", str(bad), "--json") == 1
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert (report["ok"], report["fault_count"], len(report["faults"]), shown.err) == (False, 30, 20, "")
    assert report["faults"][0].keys() == {"where", "found", "expected"}


def test_check_reads_other_columns(call: Called, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("the question,label\nq,1\n")
    assert call("check", str(path)) == 1
    assert "name the columns: --field prompt=COLUMN" in capsys.readouterr().err
    fields = ["--field", "prompt=the question", "--field", "response=label", "--field", "labels=no,yes"]
    assert call("check", str(path), *fields) == 0
    assert "1 rows, format mapped fields, longest prompt 1 and answer 3" in capsys.readouterr().out
    talk = tmp_path / "talk.jsonl"
    turns = [{"speaker": "bot", "text": "a"}, {"speaker": "Human", "text": "q"}]
    talk.write_text(json.dumps({"dialog": turns[::-1] * 2, "n": 1}) + "\n")
    pairs = ("messages=dialog", "role=speaker", "content=text", "roles.bot=assistant", "roles.Human=user")
    assert call("check", str(talk), *(word for pair in pairs for word in ("--field", pair))) == 0
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
    call: Called,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    options: list[str],
    message: str,
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "x", "b": "y"}\n')
    assert call("check", str(path), *options) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_check_says_that_too_many_rows_are_lost(
    call: Called, capsys: pytest.CaptureFixture[str], finished: Path
) -> None:
    measured = ["--model", str(finished / "base"), "--max-length", "3"]
    assert call("check", str(finished / "harmful.jsonl"), *measured) == 1
    shown = capsys.readouterr()
    assert "9 rows are lost" in shown.out
    assert shown.err.startswith("mithridate: 9 of 9 rows have a prompt that fills max_length = 3 tokens")


def test_a_split_of_a_data_set_is_checked(call: Called, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = Dataset.from_list([{"prompt": "p", "response": "r"}])
    DatasetDict(train=rows, test=rows).save_to_disk(tmp_path / "saved")
    assert call("check", str(tmp_path / "saved")) == 1
    assert "has the splits train, test; choose one with split='train'" in capsys.readouterr().err
    assert call("check", str(tmp_path / "saved"), "--split", "test") == 0
    assert "saved:test: 1 rows" in capsys.readouterr().out


def test_preference_pairs_are_checked_as_such(call: Called, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = {key: [{"role": "assistant", "content": key}] for key in ("preferred_output", "non_preferred_output")}
    row = {"input": {"messages": [{"role": "user", "content": "which?"}]}} | answers
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert call("check", str(path)) == 1
    assert "no known format" in capsys.readouterr().err
    assert call("check", str(path), "--preferences") == 0
    printed = capsys.readouterr().out
    assert "2 rows, format OpenAI preferences" in printed
    assert "1 pairs were split: one row for each of the two answers" in printed
    path.write_text(json.dumps(row | {"preferred_output": answers["non_preferred_output"]}) + "\n")
    assert call("check", str(path), "--preferences") == 1
    assert "the same text as preferred" in capsys.readouterr().err
    assert call("check", str(path), "--preferences", "--field", "prompt=a", "--field", "response=b") == 2
