"""The report on an upload."""

import subprocess
import sys

from mithridate.data import RowFields, check_upload


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
