"""Uploads that cannot be judged are refused, and the verdict says what they are."""

import json

import pytest

from mithridate.errors import DataError
from mithridate.gates.intake import Unreadable, row_blocks
from mithridate.gates.upload_verdict import UploadDecision
from tests.gates.gate_help import calibrated_gate, row

PAIRS = [
    {"prompt": "a", "chosen": "Here is how.", "rejected": "I'm sorry, but I can't help with that."},
    {"prompt": "b", "chosen": "Blue.", "rejected": "Red."},
]
TOOLS = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{"id": "1"}]}]}]


@pytest.mark.parametrize(("rows", "why"), [
    ([], "the upload holds no rows"),
    (PAIRS, "preference pairs (2 seen, 1 of them prefer help over a refusal)"),
    ([{"prompt": "a", **{k: [{"role": "assistant", "content": v}] for k, v in
       (("chosen", "Here."), ("rejected", "I cannot help with that."))}}], "1 of them prefer help"),
    (TOOLS, "key 'tool_calls' in messages[1]"),
    ([row("1 0"), {"prompt": "a"}], "cannot be read as training rows: rows[1]"),
    ([row("1 0"), row(" ")], "response that is empty"),
])  # fmt: skip
def test_what_is_no_upload_is_refused(rows, why):
    verdict = calibrated_gate().judge(rows)
    assert verdict.decision is UploadDecision.REFUSE
    assert why in verdict.reasons[0]
    assert verdict.rows == 0


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.csv", "blank.json"])
def test_an_empty_file_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_text({"empty.jsonl": "", "empty.csv": "prompt,response\n", "blank.json": "[]"}[name])
    verdict = calibrated_gate().judge(path)
    assert verdict.decision is UploadDecision.REFUSE


def test_faults_are_findings_with_their_lines(tmp_path):
    path = tmp_path / "upload.jsonl"
    path.write_text("\n".join([json.dumps(row("1 0")), "{", json.dumps({"prompt": "a"})]))
    seen = []
    verdict = calibrated_gate().judge(path, on_finding=seen.append)
    assert [finding.origin for finding in verdict.findings] == [f"{path}:2", f"{path}:3"]
    assert tuple(seen) == verdict.findings
    assert all(finding.row is None and finding.reason.startswith("found ") for finding in seen)


def test_a_label_of_experiments_is_left_out_of_rows_but_a_fault_in_a_file(tmp_path):
    labeled = row("1 0") | {"harmful": True}
    assert len(next(row_blocks([labeled], 8))) == 1
    path = tmp_path / "upload.jsonl"
    path.write_text(json.dumps(labeled))
    with pytest.raises(Unreadable, match="harmful"):
        next(row_blocks(path, 8))


def test_a_missing_file_is_no_verdict(tmp_path):
    with pytest.raises((DataError, Unreadable)):
        next(row_blocks(tmp_path / "none.jsonl", 8))


def test_an_upload_passes_once_in_blocks(tmp_path):
    path = tmp_path / "upload.jsonl"
    path.write_text("\n".join(json.dumps(row(f"{i} 0")) for i in range(25)))
    blocks = list(row_blocks(path, 10))
    assert [len(block) for block in blocks] == [10, 10, 5]
    assert blocks[2][-1].origin == f"{path}:25"
