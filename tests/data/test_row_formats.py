"""The same conversation in every format is the same row; what training cannot lay out is refused by name."""

import csv
import io
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from tests.helpers.examples import examples

from mithridate.data import check_upload, load_rows
from mithridate.errors import DataError, MithridateError

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    str.strip
)
dialogs = st.tuples(st.none() | texts, st.lists(st.tuples(texts, texts), min_size=1, max_size=3))


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def spoken(first: str | None, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    said = [("system", first)] if first is not None else []
    for asked, answered in pairs:
        said += [("user", asked), ("assistant", answered)]
    return said


def parts(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text, "image_url": None}]


SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}
DEVELOPER = {"system": "developer", "user": "user", "assistant": "assistant"}
WRITTEN: dict[str, Callable[[list[tuple[str, str]]], dict[str, Any]]] = {
    "openai": lambda said: {"messages": [turn(*one) for one in said]},
    "developer": lambda said: {"messages": [turn(DEVELOPER[who], text) for who, text in said]},
    "parts": lambda said: {"messages": [turn(who, parts(text)) for who, text in said], "tools": []},
    "api export": lambda said: {
        "messages": [turn(*one) | {"refusal": None, "tool_calls": None, "name": None} for one in said],
        "tools": None,
        "parallel_tool_calls": True,
    },
    "sharegpt": lambda said: {"conversations": [{"from": SHAREGPT[who], "value": text} for who, text in said]},
    "sharegpt in openai's words": lambda said: {"conversations": [turn(*one) for one in said]},
    "openai in sharegpt's words": lambda said: {
        "messages": [{"from": SHAREGPT[who], "value": text} for who, text in said],
    },
    "lists": lambda said: {"messages": {"role": [who for who, _ in said], "content": [text for _, text in said]}},
}


def loaded(source: Any, **settings: Any) -> list[tuple[list, list]]:
    return [(row["prompt"], row["completion"]) for row in load_rows(source, **settings)]


@pytest.mark.parametrize("form", WRITTEN)
@settings(max_examples=examples(10))
@given(rows=st.lists(dialogs, min_size=1, max_size=4))
def test_every_way_to_write_a_conversation_gives_the_same_rows(form: str, rows: list) -> None:
    said = [spoken(*dialog) for dialog in rows]
    expected = loaded([WRITTEN["openai"](one) for one in said])
    assert loaded([WRITTEN[form](one) for one in said]) == expected
    assert len(expected) == sum(len(pairs) for _, pairs in rows)


def as_file(rows: list[dict[str, Any]], path: Path) -> None:
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix in (".csv", ".tsv"):
        text = io.StringIO()
        csv.DictWriter(text, list(rows[0])).writeheader()
        csv.DictWriter(text, list(rows[0]), quoting=csv.QUOTE_ALL).writerows(rows)
        path.write_text(text.getvalue(), encoding="utf-8", newline="")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@settings(max_examples=examples(30))
@given(pairs=st.lists(st.tuples(texts, texts, st.none() | texts), min_size=1, max_size=5))
def test_every_container_gives_the_same_rows(tmp_path_factory, pairs: list) -> None:
    rows = [{"instruction": asked, "input": more, "output": said} for asked, said, more in pairs]
    expected = loaded(rows)
    folder = tmp_path_factory.mktemp("files")
    assert loaded(Dataset.from_list(rows)) == expected
    for name in ("rows.jsonl", "rows.json", "rows.csv", "rows.parquet"):
        as_file(rows, folder / name)
        assert loaded(folder / name) == expected, name


def test_parts_are_joined_by_line_breaks() -> None:
    two = [{"type": "text", "text": "one"}, {"type": "input_text", "text": "two"}]
    row = {"messages": [turn("user", two), turn("assistant", [{"type": "output_text", "text": "a"}])]}
    assert loaded([row]) == [([turn("user", "one\ntwo")], [turn("assistant", "a")])]


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOLS: dict[str, dict[str, Any]] = {
    "a call": {"messages": [turn("user", "q"), turn("assistant", None) | {"tool_calls": [CALL]}]},
    "a result": {"messages": [turn("user", "q"), turn("tool", "3") | {"tool_call_id": "c"}, turn("assistant", "a")]},
    "an old call": {"messages": [turn("user", "q"), turn("assistant", None) | {"function_call": {"name": "f"}}]},
    "tools": {"messages": [turn("user", "q"), turn("assistant", "a")], "tools": [{"type": "function"}]},
    "functions": {"messages": [turn("user", "q"), turn("assistant", "a")], "functions": [{"name": "f"}]},
    "tools as text": {
        "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
        "tools": "[{}]",
    },
    "a ShareGPT call": {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "{}"}]},
    "a ShareGPT result": {"conversations": [{"from": "observation", "value": "3"}, {"from": "gpt", "value": "a"}]},
}


@pytest.mark.parametrize("case", TOOLS)
def test_tool_calls_are_one_clear_fault(case: str) -> None:
    with pytest.raises(
        DataError, match=r"^rows\[0\]: found .*, expected a conversation without tools, because"
    ) as caught:
        load_rows([TOOLS[case]])
    assert "\n" not in str(caught.value)


def test_tools_can_be_left_out_on_purpose() -> None:
    assert len(load_rows([TOOLS["tools"]], ignore=["tools"])) == 1
    assert len(load_rows([TOOLS["tools as text"] | {"tools": " [] "}])) == 1


def test_empty_cells_of_a_data_frame_are_nothing() -> None:
    rows = [{"instruction": "i", "input": float("nan"), "output": "o", "system": float("nan")}]
    assert loaded(rows) == [([turn("user", "i")], [turn("assistant", "o")])]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {1: "a", "prompt": "p", "response": "r"},
            "found a key that is no string, expected a dict with strings as keys",
        ),
        ({None: "a"}, "found a key that is no string"),
        (
            {"messages": [turn("user", "q") | {3: 1}, turn("assistant", "a")]},
            r"found a key in messages\[0\] that is no",
        ),
        (
            {"messages": [turn("user", "q"), turn("assistant", "a") | {"weight": 10**5000}]},
            "found weight of thousands of",
        ),
        (
            {"messages": [turn("user", "q"), turn("assistant", "a") | {"weight": float("inf")}]},
            "found weight inf in mes",
        ),
    ],
)
def test_rows_that_only_python_can_hold(row: dict, message: str) -> None:
    with pytest.raises(DataError, match=r"^rows\[0\]: " + message):
        load_rows([row])


JUNK = [
    None,
    True,
    0,
    -1.5,
    1e300,
    "",
    " ",
    "x",
    "\0",
    "\ud800",
    [],
    [None],
    {},
    {"role": "user"},
    [[]],
    b"raw",
    object,
]
KEYS = ["messages", "conversations", "prompt", "completion", "response", "instruction", "input", "output", "system"]
MORE = ["history", "tools", "text", "label", "weight", "", "é", "id"]


def test_a_hundred_hostile_rows_are_read_or_named(tmp_path: Path) -> None:
    dice = random.Random(0)

    def hostile(depth: int = 0) -> Any:
        if depth > 2 or dice.random() < 0.3:
            return dice.choice(JUNK)
        if dice.random() < 0.5:
            return [hostile(depth + 1) for _ in range(dice.randrange(4))]
        names = [*KEYS, *MORE] if not depth else ["role", "content", "from", "value", "type", "text", "weight"]
        return {dice.choice(names): hostile(depth + 1) for _ in range(dice.randrange(5))}

    for i in range(300):
        row = hostile()
        report = check_upload([row])
        assert report.rows >= 1 or str(report.faults[0]).startswith("rows[0]: found "), (i, row)
        if report.ok:
            assert len(load_rows([row])) == report.rows


def test_a_hundred_hostile_files_end_in_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dice = random.Random(1)
    good = json.dumps({"messages": [turn("user", "q"), turn("assistant", "a")]}).encode()
    endings = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet", ".jsonl.gz", ".csv.gz", "")
    for i in range(120):
        body = bytearray(b"\n".join([good] * 5) if i % 2 else dice.randbytes(200))
        for _ in range(dice.randrange(6)):
            place = dice.randrange(len(body))
            body[place : place + dice.randrange(9)] = dice.choice([b"", b"\0", b'"', b"[", b"\xff", b"\n", b",", b"{}"])
        path = Path(f"f{endings[i % len(endings)]}")
        path.write_bytes(body)
        report = check_upload(path)
        assert report.rows or report.fault_count
        assert all(str(fault).startswith(str(path)) for fault in report.faults)
        if report.fault_count:
            with pytest.raises(MithridateError):
                load_rows(path)


DOCS = Path(__file__).parents[2] / "docs/data.md"


@pytest.mark.parametrize("block", re.findall(r"```json\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL))
def test_the_rows_that_the_documentation_shows_are_read(block: str) -> None:
    assert len(load_rows([json.loads(line) for line in block.splitlines()])) == 2
