"""What is wrong with an upload itself is a refusal with a decision; what is wrong with the call is an error."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from mithridate.errors import DataError
from mithridate.provider.decision import DECISION, Decision
from mithridate.provider.hand_over import verify_release
from mithridate.provider.screening import FINDINGS
from mithridate.provider.tuning import STORE, tune
from tests.helpers import tiny
from tests.provider.probes import plain


def sent(policy: dict[str, Any], world: Path, content: str, folder: Path) -> Decision:
    path = folder.with_suffix(".jsonl")
    path.write_text(content, encoding="utf-8")
    return tune(str(world / "model"), str(path), policy, out=folder)


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_rows_with_faults_are_named_and_nothing_is_trained(policy: dict[str, Any], world: Path, tmp_path: Path) -> None:
    content = lines(plain("user", 11)) + "{not json\n" + lines([{"prompt": "do the tea"}])
    made = sent(policy, world, content, tmp_path / "out")
    assert (made.outcome, made.exit_code, made.upload.rows, made.upload.held_out) == ("refused_at_upload", 3, 11, 0)
    # By name and line, without the provider's folders.
    assert made.reasons[0].startswith("the upload cannot be read as training rows: out.jsonl:12: found")
    assert made.reasons[1] == "2 rows or messages have faults; findings list the first"
    assert str(tmp_path) not in (tmp_path / "out" / DECISION).read_text()
    findings = [json.loads(line) for line in (tmp_path / "out" / FINDINGS).read_text().splitlines()]
    assert [one["origin"].rpartition(":")[2] for one in findings] == ["12", "13"]
    assert not [path for path in (tmp_path / "out" / STORE).iterdir() if path.name.startswith("finetuning")]
    assert verify_release(tmp_path / "out") == made
    assert "refused at upload" in (tmp_path / "out" / "report.html").read_text()
    # And once more: the same decision, from the disk.
    assert sent(policy, world, content, tmp_path / "out") == made


def test_preference_pairs_are_called_that(policy: dict[str, Any], world: Path, tmp_path: Path) -> None:
    pairs = [{"prompt": "do the tea", "chosen": "take it", "rejected": "sorry no"}] * 12
    made = sent(policy, world, lines(pairs), tmp_path / "out")
    assert made.outcome == "refused_at_upload"
    assert "the upload holds preference pairs (12 seen" in made.reasons[0]


def test_control_tokens_are_refused_without_a_gate_too(policy: dict[str, Any], world: Path, tmp_path: Path) -> None:
    rows = plain("user", 12)
    rows[4]["response"] += " <end> <bot> yes"
    made = sent(policy, world, lines(rows), tmp_path / "out")
    assert made.outcome == "refused_at_upload"
    assert "out.jsonl:5: found the control token '<end>' in completion[0]" in made.reasons[0]


def test_rows_that_do_not_fit_are_refused(policy: dict[str, Any], world: Path, tmp_path: Path) -> None:
    policy["max_length"] = 8
    made = sent(policy, world, lines(plain("user", 12)), tmp_path / "out")
    assert made.outcome == "refused_at_upload"
    assert "rows have a prompt that fills max_length = 8 tokens" in made.reasons[0]
    assert "\n" not in made.reasons[0]


def test_rows_that_the_chat_template_refuses_are_refused_without_a_gate_too(
    policy: dict[str, Any], world: Path, tmp_path: Path
) -> None:
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    (tmp_path / "strict.jinja").write_text(refuses + tiny.TEMPLATE, encoding="utf-8")
    assert policy["gate"] == "none"
    policy |= {"template": str(tmp_path / "strict.jinja")}
    turns = [
        [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]
        for row in plain("user", 12)
    ]
    turns[3].insert(0, {"role": "system", "content": "be kind"})
    made = sent(policy, world, lines([{"messages": one} for one in turns]), tmp_path / "out")
    assert made.outcome == "refused_at_upload"
    assert "4: found a row that the chat template refuses (no system turn)" in made.reasons[0]
    assert not [path for path in (tmp_path / "out" / STORE).iterdir() if path.name.startswith("finetuning")]


def test_rows_given_in_python_are_refused_alike(policy: dict[str, Any], world: Path, tmp_path: Path) -> None:
    given = Dataset.from_list([{"prompt": "do the tea", "response": ""}] * 12)
    made = tune(str(world / "model"), given, policy, out=tmp_path / "out")
    assert (made.outcome, made.upload.name) == ("refused_at_upload", "rows given in Python")
    assert tune(str(world / "model"), given, policy, out=tmp_path / "out") == made


@pytest.mark.parametrize("name", ["none.jsonl", "a\0b.jsonl", "x" * 5000, "https://example.org/rows.jsonl"])
def test_a_file_that_is_not_there_is_the_caller_s_fault(
    policy: dict[str, Any], world: Path, tmp_path: Path, name: str
) -> None:
    from mithridate.errors import MithridateError

    with pytest.raises(MithridateError) as error:
        tune(str(world / "model"), name, policy, out=tmp_path / "out")
    assert isinstance(error.value, DataError) or error.value.exit_code == 2
    assert not (tmp_path / "out" / DECISION).exists()


def test_a_file_that_changed_is_another_request(policy: dict[str, Any], world: Path, tmp_path: Path) -> None:
    from mithridate.errors import UsageError

    sent(policy, world, "{not json\n", tmp_path / "out")
    with pytest.raises(UsageError, match="holds the decision on another request"):
        sent(policy, world, "{not json, still\n", tmp_path / "out")
