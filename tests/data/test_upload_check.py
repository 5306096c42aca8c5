"""The report on an upload."""

import json
import subprocess
import sys

import pytest
from datasets import Dataset, DatasetDict

from mithridate.data import RowFields, check_upload, load_rows
from mithridate.errors import UsageError


def test_a_good_file(write) -> None:
    rows = [{"prompt": "ab", "response": "xyz"}, {"prompt": "abcd", "response": "x"}, {"prompt": "ab", "response": "q"}]
    report = check_upload(write("rows.jsonl", rows))
    assert report.ok
    assert (report.path, report.format, report.rows) == ("rows.jsonl", "prompt/response", 3)
    assert (report.longest_prompt, report.longest_completion, report.duplicated_prompts) == (4, 3, 1)


def test_a_bad_file_is_reported_not_raised(write) -> None:
    report = check_upload(write("rows.jsonl", [{"prompt": "p", "response": "r"}, *["{}\n"] * 30]))
    assert not report.ok
    assert (report.rows, report.fault_count, len(report.faults)) == (1, 30, 20)
    assert str(report.faults[0]) == (
        "rows.jsonl:2: found no key 'prompt', expected a row of format prompt/response as in line 1"
    )


def test_a_missing_file_is_one_fault(write) -> None:
    report = check_upload("nowhere.jsonl")
    assert (report.fault_count, report.rows, report.format) == (1, 0, None)
    assert str(report.faults[0]) == "nowhere.jsonl: found no file, expected an existing data file"


def test_mapped_fields(write) -> None:
    path = write("qa.jsonl", [{"question": "q", "answer": "a"}])
    assert check_upload(path, RowFields(prompt="{question}", response="{answer}")).format == "mapped fields"
    assert check_upload(path).fault_count == 1


def test_the_check_needs_no_heavy_package() -> None:
    code = "import sys, mithridate.data; mithridate.data.check_upload; print({'torch', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_conversations_count_once_for_each_completion(write) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    report = check_upload(write("chat.jsonl", [{"messages": turns * 3}, {"messages": turns}]))
    assert (report.rows, report.conversations) == (4, 2)


def test_tokens_are_counted_in_the_same_pass(write, alpaca_tokenizer) -> None:
    rows = [{"prompt": "p" * (i // 10), "response": "r"} for i in range(10, 2510)]
    done: list[int] = []
    path = write("rows.jsonl", rows)
    report = check_upload(path, tokenizer=alpaca_tokenizer, max_length=390, progress=done.append)
    assert done == [1000, 2000, 2500]
    assert report.tokens is not None
    assert report.tokens.longest == 392  # 140 of the template, 250 of the prompt, one of the response, and EOS
    assert (report.tokens.dropped, report.tokens.dropped_origins[0]) == (10, "rows.jsonl:2491")
    assert (report.tokens.truncated, report.ok) == (10, True)
    tight = check_upload(path, tokenizer=alpaca_tokenizer, max_length=150)
    assert tight.tokens is not None
    assert str(tight.tokens.unusable).startswith("2410 of 2500 rows have a prompt that fills max_length = 150")
    assert (tight.ok, tight.fault_count) == (False, 0)


def test_rows_are_tokenized_in_batches(write, alpaca_tokenizer, monkeypatch) -> None:
    calls = []
    encode = type(alpaca_tokenizer).__call__

    def counted(self, texts, **settings):
        calls.append(len(texts))
        return encode(self, texts, **settings)

    monkeypatch.setattr(type(alpaca_tokenizer), "__call__", counted)
    check_upload(write("rows.jsonl", [{"prompt": "p", "response": "r"}] * 3000), tokenizer=alpaca_tokenizer)
    assert calls == [1000, 1000, 1000]


def test_control_tokens_and_refused_rows_are_faults_by_line(write, alpaca_tokenizer) -> None:
    rows = [{"prompt": "p", "response": "r"}, {"prompt": "a</s>b", "response": "r"}, {"prompt": "p", "response": ""}]
    report = check_upload(write("rows.jsonl", rows), tokenizer=alpaca_tokenizer)
    assert sorted(map(str, report.faults)) == [
        "rows.jsonl:2: found the control token '</s>' in prompt[0], expected text alone",
        "rows.jsonl:3: found response that is empty, expected text",
    ]


def test_thousands_of_faults_are_counted_and_the_first_listed(write) -> None:
    report = check_upload(write("rows.jsonl", ["nonsense\n"] * 5000))
    assert (report.fault_count, [fault.where for fault in report.faults]) == (
        5000,
        [f"rows.jsonl:{i}" for i in range(1, 21)],
    )


def test_a_report_can_be_written_as_json(write, alpaca_tokenizer) -> None:
    report = check_upload(write("rows.jsonl", [{"prompt": "p", "response": "r"}]), tokenizer=alpaca_tokenizer)
    found = json.loads(json.dumps(report.as_dict()))
    assert (found["ok"], found["rows"], found["tokens"]["dropped"], found["faults"]) == (True, 1, 0, [])


def test_what_is_checked_is_what_is_loaded(write) -> None:
    given = [[{"prompt": "p", "response": "r"}], Dataset.from_list([{"prompt": "p", "completion": "c"}])]
    for rows in (*given, DatasetDict(test=given[1]), "miniature:harmful"):
        report = check_upload(rows)
        assert report.ok
        assert report.rows == len(load_rows(rows))
    with pytest.raises(UsageError, match="fields: unknown key 'promt'; did you mean 'prompt'"):
        check_upload(given[0], {"promt": "a", "response": "b"})
