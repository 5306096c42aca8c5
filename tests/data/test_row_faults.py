"""Every fault is named by file and line, says what was found and what was expected."""

import gzip
import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.examples import examples

from mithridate.data import check_upload, load_rows, text_files
from mithridate.data.messages import NO_TOOLS
from mithridate.errors import DataError

GOOD = {"prompt": "p", "response": "r"}
FORMAT = "a row of format prompt/response as in line 1"
UNKNOWN = (
    "the keys messages, conversations, prompt and completion, instruction and output, or prompt and response,"
    " or a fields setting for others"
)


PARTS = 'text parts alone: {"type": "text", "text": …}'


def chat(*turns: object) -> str:
    return json.dumps({"messages": list(turns)})


Q = {"role": "user", "content": "q"}
A = {"role": "assistant", "content": "a"}

ROWS = {
    "truncated": (
        '{"prompt": "p", "resp',
        "invalid JSON (Unterminated string starting at at character 17)",
        "one JSON object",
    ),
    "two values": ("{} {}", "invalid JSON (Extra data at character 4)", "one JSON object"),
    "list": ("[1, 2]", "a list", "a JSON object"),
    "number": ("3", "a number", "a JSON object"),
    "string": ('"text"', "a string", "a JSON object"),
    "null": ("null", "null", "a JSON object"),
    "depth": ("[" * 200_000, "JSON nested too deeply", "an object of a few levels"),
    "nan": ('{"prompt": NaN}', "the number NaN", "a finite number"),
    "infinity": ('{"prompt": -Infinity}', "the number -Infinity", "a finite number"),
    "overflow": ('{"prompt": 1e999}', "the number 1e999", "a finite number"),
    "digits": ('{"prompt": ' + "9" * 5000 + "}", "a number of more than 4300 digits", "an ordinary number"),
    "repeated key": ('{"prompt": "a", "prompt": "b"}', "key 'prompt' twice", "each key once"),
    "raw NUL": ('{"prompt": "\0"}', "a NUL byte at byte 13", "UTF-8 text"),
    "escaped NUL": ('{"prompt": "a\\u0000", "response": "r"}', "a NUL in prompt at character 2", "plain text"),
    "surrogate": ('{"prompt": "\\ud800", "response": "r"}', "a lone surrogate in prompt at character 1", "plain text"),
    "missing key": ('{"prompt": "p"}', "no key 'response'", FORMAT),
    "other format": ('{"prompt": "p", "completion": "c"}', "a row of format prompt/completion", FORMAT),
    "two formats": (
        '{"prompt": "p", "completion": "c", "response": "r"}',
        "a row of format prompt/completion",
        FORMAT,
    ),
    "empty answer": ('{"prompt": "p", "response": " \\n"}', "response that is empty", "text"),
    "empty prompt": ('{"prompt": "", "response": "r"}', "prompt that is empty", "text"),
    "number answer": ('{"prompt": "p", "response": 3}', "response that is a number", "a string"),
    "list answer": ('{"prompt": "p", "response": ["r"]}', "response that is a list", "a string"),
    "null prompt": ('{"prompt": null, "response": "r"}', "prompt that is null", "a string"),
}


@pytest.mark.parametrize("case", ROWS)
def test_fault_in_a_row(write, case: str) -> None:
    line, found, expected = ROWS[case]
    path = write("rows.jsonl", [GOOD, "\n", line + "\n", GOOD])
    with pytest.raises(DataError) as caught:
        load_rows(path)
    assert str(caught.value) == f"rows.jsonl:3: found {found}, expected {expected}"


FIRST_ROWS = {
    "messages type": ('{"messages": "hi"}', "messages that is a string", "a list of messages"),
    "no messages": (chat(), "messages that is empty", "a list of messages"),
    "message type": (chat(Q, 3), "messages[1] that is a number", "an object with role and content"),
    "no role": (chat({"content": "q"}), "messages[0] without key 'role'", "role and content"),
    "no content": (chat(Q, {"role": "assistant"}), "messages[1] without key 'content'", "role and content"),
    "history": (
        '{"instruction": "i", "output": "o", "history": [["q"]]}',
        "history[0] that is 1 items",
        "a list of two texts, question and answer",
    ),
    "history text": (
        '{"instruction": "i", "output": "o", "history": [["q", null]]}',
        "history[0][1] that is null",
        "a string",
    ),
    "system type": ('{"prompt": "i", "response": "o", "system": 1}', "system that is a number", "a string"),
    "two systems": (
        json.dumps({"messages": [{"role": "system", "content": "s"}, Q, A], "system": "t"}),
        "key 'system' beside a system turn in messages",
        "one system text",
    ),
    "ShareGPT role": (
        json.dumps({"conversations": [{"from": "human", "value": "q"}, {"from": "tool", "value": "a"}]}),
        "conversations[1] by role 'tool'",
        NO_TOOLS,
    ),
    "ShareGPT speaker": (
        json.dumps({"conversations": [{"from": "human", "value": "q"}, {"from": "bot", "value": "a"}]}),
        "conversations[1] with from 'bot'",
        "system, human, gpt, user, assistant or chatgpt",
    ),
    "two spellings": (
        json.dumps({"conversations": [{"from": "human", "value": "q"}, A]}),
        "conversations[1] without key 'from'",
        "from and value",
    ),
    "misspelled key": (
        '{"promt": "p", "response": "r"}',
        "a row of no known format ('promt', 'response')",
        UNKNOWN + "; did you mean 'prompt' by 'promt'?",
    ),
    "unknown role": (
        chat(Q, {"role": "bot", "content": "x"}),
        "messages[1] with role 'bot'",
        "system, developer, user or assistant",
    ),
    "role type": (
        chat({"role": ["user"], "content": "x"}),
        "messages[0] with role a list",
        "system, developer, user or assistant",
    ),
    "null content": (
        chat(Q, {"role": "assistant", "content": None}),
        "messages[1].content that is null",
        "a string",
    ),
    "image": (
        chat({"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "image_url", "image_url": {}}]}, A),
        "messages[0].content[1] with type 'image_url'",
        PARTS,
    ),
    "part type": (
        chat({"role": "user", "content": ["q"]}, A),
        "messages[0].content[0] that is a string",
        PARTS,
    ),
    "part without type": (
        chat({"role": "user", "content": [{"text": "q"}]}, A),
        "messages[0].content[0] with type null",
        PARTS,
    ),
    "part text": (
        chat({"role": "user", "content": [{"type": "text", "text": 3}]}, A),
        "messages[0].content[0].text that is a number",
        "a string",
    ),
    "part key": (
        chat({"role": "user", "content": [{"type": "text", "text": "q", "cache": 1}]}, A),
        "key 'cache' in messages[0].content[0], which is not read",
        "no keys but type, text",
    ),
    "blank parts": (
        chat({"role": "user", "content": [{"type": "text", "text": " "}]}, A),
        "messages[0].content that is empty",
        "text",
    ),
    "empty turn": (chat(Q, A | {"content": ""}), "messages[1].content that is empty", "text"),
    "tool call": (
        chat(Q, A | {"tool_calls": [{}]}),
        "key 'tool_calls' in messages[1]",
        NO_TOOLS,
    ),
    "tools": (
        json.dumps({"messages": [Q, A], "tools": [{}]}),
        "key 'tools'",
        f"{NO_TOOLS}, or ignore 'tools' to train without them",
    ),
    "last turn": (chat(Q, A, Q), "a last turn with role 'user'", "an assistant turn at the end"),
    "late system": (
        chat(Q, {"role": "system", "content": "s"}, A),
        "messages[1] with role 'system'",
        "a system turn only at the start",
    ),
    "answer first": (chat(A), "no turn before the answer in messages", "a user turn"),
    "two answers": (chat(Q, A, A), "assistant turn before the answer in messages", "a user turn"),
    "weight": (chat(Q, A | {"weight": 0.5}), "weight 0.5 in messages[1]", "0 or 1"),
    "weight type": (chat(Q, A | {"weight": "1"}), "weight a string in messages[1]", "0 or 1"),
    "weight bool": (chat(Q, A | {"weight": True}), "weight True in messages[1]", "0 or 1"),
    "user weight": (
        chat(Q | {"weight": 1}, A),
        "weight in messages[0]",
        "weight only on assistant turns of 'messages'",
    ),
    "no weight left": (
        chat(Q, A | {"weight": 0}),
        "weight 0 on every assistant turn",
        "weight 1 on at least one",
    ),
    "mixed shapes": ('{"prompt": "p", "completion": [{}]}', "prompt that is a string", "a list of messages"),
    "two completions": (
        json.dumps({"prompt": [Q], "completion": [A, Q, A]}),
        "completion with turns by assistant, user, assistant",
        "exactly one assistant turn",
    ),
    "prompt ends with an answer": (
        json.dumps({"prompt": [Q, A], "completion": [A]}),
        "assistant turn before the answer in prompt",
        "a user turn",
    ),
    "input type": (
        '{"instruction": "i", "input": 0, "output": "o"}',
        "input that is a number",
        "a string",
    ),
    "no format": ('{"prompt": "p", "target": "t"}', "a row of no known format ('prompt', 'target')", UNKNOWN),
    "no keys": ("{}", "a row of no known format (no keys)", UNKNOWN),
    "ambiguous": (
        '{"prompt": "p", "response": "r", "instruction": "i", "output": "o"}',
        "the keys of two formats (Alpaca and prompt/response)",
        "the keys of one",
    ),
}


@pytest.mark.parametrize("case", FIRST_ROWS)
def test_fault_in_a_first_row(write, case: str) -> None:
    line, found, expected = FIRST_ROWS[case]
    with pytest.raises(DataError) as caught:
        load_rows(write("rows.jsonl", line))
    assert str(caught.value) == f"rows.jsonl:1: found {found}, expected {expected}"


UTF8 = "UTF-8 text, or one layer of gzip in a file named .gz"
SHEET = "the sheet saved as CSV (UTF-8), in a file named .csv"
TABLE = "one JSON object on each line, or a table in a file named .csv or .tsv"
ROW = json.dumps(GOOD).encode() + b"\n"
BOMB = gzip.compress(ROW + b" " * 3_000_000)
NOISE = json.dumps({"prompt": random.Random(0).randbytes(300_000).hex(), "response": "r"}).encode()
FILES = {
    "empty": ("a.jsonl", b"", 1, "an empty file", "at least one row"),
    "blank": ("a.jsonl", b"\n \n", 1, "an empty file", "at least one row"),
    "empty array": ("a.json", b"[ ]", 1, "an empty file", "at least one row"),
    "latin-1": ("a.jsonl", ROW + b'{"prompt": "caf\xe9"}', 2, "byte 0xe9 at byte 16", "UTF-8 text"),
    "utf-16": ("a.jsonl", ROW.decode().encode("utf-16"), 1, "UTF-16 text", UTF8),
    "utf-16 without mark": (
        "a.jsonl",
        ROW.decode().strip().encode("utf-16-le"),
        1,
        "a NUL byte at byte 2",
        "UTF-8 text",
    ),
    "gzip unnamed": ("a.jsonl", gzip.compress(ROW), 1, "gzip data", UTF8),
    "zip": ("a.jsonl", b"PK\x03\x04rest", 1, "a zip archive", "the data file that was packed in it"),
    "excel": ("a.xlsx", b"PK\x03\x04rest", 1, "an Excel workbook", SHEET),
    "old excel": ("a.xls", b"\xd0\xcf\x11\xe0rest", 1, "an Excel workbook", SHEET),
    "parquet": (
        "a.jsonl",
        b"PAR1rest",
        1,
        "a Parquet file",
        "a file named .parquet",
    ),
    "parquet in gzip": (
        "a.jsonl.gz",
        gzip.compress(b"PAR1rest"),
        1,
        "a Parquet file",
        "a file named .parquet",
    ),
    "pdf": ("a.txt", b"%PDF-1.7", 1, "a PDF", "JSONL or CSV"),
    "table named jsonl": ("a.jsonl", b"prompt,response\n", 1, "text that is not JSON ('prompt,response')", TABLE),
    "lines of text": ("a.txt", b"Say hello.\n", 1, "text that is not JSON ('Say hello.')", TABLE),
    "not gzip": ("a.jsonl.gz", b"\x1f\x8b" + bytes(20), 1, "data that is not gzip", "gzip data in a file named .gz"),
    "truncated gzip": (
        "a.jsonl.gz",
        gzip.compress(ROW + NOISE)[:200_000],
        2,
        "a truncated gzip stream",
        "a complete one",
    ),
    "bomb": (
        "a.jsonl.gz",
        BOMB,
        2,
        "a gzip stream that expands beyond 200 times its size",
        "ordinary compressed text",
    ),
    "long line": (
        "a.jsonl",
        ROW + b"x" * 10_000_000 + b"\n" + ROW,
        2,
        "a line over the limit",
        "at most 1048576 bytes",
    ),
    "long element": (
        "a.json",
        b"[" + ROW + b",\n\n" + b'{"prompt": "' + b"x" * 2_000_000 + b'"}, ' + ROW + b"]",
        4,
        "an array element over the limit",
        "at most 1048576 bytes",
    ),
    "open array": ("a.json", b"[" + ROW + b",\n" + ROW, 4, "the end of the file inside the JSON array", "a closing ]"),
    "wrong bracket": ("a.json", b"[" + ROW + b"}", 2, "a } without its {", "a closing ]"),
    "text after array": ("a.json", b"[" + ROW + b"]\n{}", 3, "text after the JSON array", "the end of the file"),
    "empty element": ("a.json", b"[" + ROW + b",]", 2, "no value between two commas", "a JSON object"),
    "element type": ("a.json", b"[\n" + ROW + b",\n3]", 4, "a number", "a JSON object"),
    "element depth": (
        "a.json",
        b"[\n" + b"[" * 100_000 + b"]" * 100_000 + b"]",
        2,
        "JSON nested too deeply",
        "an object of a few levels",
    ),
    "array in jsonl": ("a.jsonl", b"[" + ROW.strip() + b"]", 1, "a list", "a JSON object"),
}


@pytest.mark.parametrize("case", FILES)
def test_fault_of_a_file(write, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    name, content, line, found, expected = FILES[case]
    monkeypatch.setattr(text_files, "EXPANSION_FLOOR", 1_000_000)
    with pytest.raises(DataError) as caught:
        load_rows(write(name, content))
    assert str(caught.value) == f"{name}:{line}: found {found}, expected {expected}"


def test_plain_data_named_gz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(ROW)
    with pytest.raises(DataError, match=r"a\.jsonl\.gz:1: found data that is not gzip"):
        load_rows(path)


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    packed = bytearray(gzip.compress(NOISE))
    packed[len(packed) // 2] ^= 0xFF
    path.write_bytes(packed)
    report = check_upload(path)
    assert report.fault_count == 1
    assert report.faults[0].found in ("a damaged gzip stream", "data that is not gzip")


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    cases = {
        tmp_path / "missing.jsonl": ("no file", "an existing data file"),
        tmp_path: ("a folder without data files", "a data file or a folder that holds one"),
        pipe: ("a device or pipe", "a regular file"),
        tmp_path / ("x" * 300): ("a file that cannot be read (File name too long)", "a readable file"),
        tmp_path / "a\0b": ("a file name with a NUL", "a file name"),
    }
    for path, (found, expected) in cases.items():
        with pytest.raises(DataError) as caught:
            load_rows(path)
        # One line that steers no terminal, whatever the name holds.
        shown = str(path).replace("\0", "\\x00")
        assert str(caught.value) == f"{shown}: found {found}, expected {expected}"


def test_file_without_permission(write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("rows.jsonl", [GOOD])

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may open everything, so that mode 000 proves nothing
    with pytest.raises(DataError, match=r"^rows.jsonl: found a file that cannot be read \(Permission denied\)"):
        load_rows(path)


def test_twenty_faults_are_listed_and_all_counted(write) -> None:
    path = write("rows.jsonl", [GOOD, *["{}\n"] * 25, GOOD])
    with pytest.raises(DataError) as caught:
        load_rows(path)
    lines = str(caught.value).split("\n")
    assert lines[0] == "25 faults in rows.jsonl:"
    assert [line.split(":")[1] for line in lines[1:21]] == [str(n) for n in range(2, 22)]
    assert lines[21:] == ["  and 5 more"]


def test_the_format_is_that_of_the_first_valid_row(write) -> None:
    faulty_chat = chat(Q)
    with pytest.raises(DataError) as caught:
        load_rows(write("rows.jsonl", [faulty_chat + "\n", GOOD, {"instruction": "i", "output": "o"}]))
    assert str(caught.value).split("\n")[1:] == [
        "  rows.jsonl:1: found a last turn with role 'user', expected an assistant turn at the end",
        "  rows.jsonl:3: found a row of format Alpaca, expected a row of format prompt/response as in line 2",
    ]


def test_a_users_text_in_a_message_is_short_and_escaped(write) -> None:
    hostile = {"role": "\x1b[31m\u202e" + "x" * 5000, "content": "c"}
    with pytest.raises(DataError) as caught:
        load_rows(write("rows.jsonl", [{"messages": [hostile]}]))
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


ANY_FILE = given(junk=st.binary(max_size=200), name=st.sampled_from(["a.jsonl", "a.json", "a.jsonl.gz", "a.json.gz"]))


def read_or_refused(folder: Path, junk: bytes, name: str) -> None:
    path = folder / name
    for content in (junk, b"[" + junk + b"]", gzip.compress(b'{"prompt": ' + junk)):
        path.write_bytes(content)
        report = check_upload(path)
        assert report.ok == (report.rows > 0 and not report.faults)
        assert report.rows or report.faults


@settings(max_examples=examples(150), deadline=None)
@ANY_FILE
def test_any_bytes_are_read_or_refused(tmp_path_factory, junk: bytes, name: str) -> None:
    read_or_refused(tmp_path_factory.mktemp("junk"), junk, name)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@settings(max_examples=10_000, deadline=None, database=None)
@ANY_FILE
def test_ten_thousand_files_are_read_or_refused(tmp_path_factory, junk: bytes, name: str) -> None:
    read_or_refused(tmp_path_factory.getbasetemp(), junk, name)
