"""Rows that are written in any format come back as they were."""

import gzip
import json
import tempfile
from pathlib import Path

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.examples import examples

import mithridate.data as data
from mithridate.data import load_rows

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
    str.strip
)
pairs = st.lists(st.tuples(texts, texts), min_size=1, max_size=8)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def plain(dataset: Dataset) -> list[tuple[list, list]]:
    return [(row["prompt"], row["completion"]) for row in dataset]


def single_turn(rows: list[tuple[str, str]]) -> list[tuple[list, list]]:
    return [([turn("user", prompt)], [turn("assistant", answer)]) for prompt, answer in rows]


def read_back(records: list[dict], name: str, array: bool = False, indent: int | None = None) -> Dataset:
    """Write records to a file of their own and load it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        text = json.dumps(records, indent=indent) if array else "".join(json.dumps(r) + "\n" for r in records)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return load_rows(path)


FORMS = {
    "chat": lambda p, a: {"messages": [turn("user", p), turn("assistant", a)]},
    "completion": lambda p, a: {"prompt": p, "completion": a},
    "conversation": lambda p, a: {"prompt": [turn("user", p)], "completion": [turn("assistant", a)]},
    "alpaca": lambda p, a: {"instruction": p, "input": "", "output": a},
    "response": lambda p, a: {"prompt": p, "response": a},
}


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=examples(40), deadline=None)
@given(rows=pairs, packed=st.booleans())
def test_jsonl_round_trip(form: str, rows: list[tuple[str, str]], packed: bool) -> None:
    records = [FORMS[form](prompt, answer) for prompt, answer in rows]
    assert plain(read_back(records, "rows.jsonl" + ".gz" * packed)) == single_turn(rows)


@settings(max_examples=examples(40), deadline=None)
@given(rows=pairs, packed=st.booleans(), indent=st.sampled_from([None, 0, 2]))
def test_array_round_trip(rows: list[tuple[str, str]], packed: bool, indent: int | None) -> None:
    records = [FORMS["alpaca"](prompt, answer) for prompt, answer in rows]
    dataset = read_back(records, "rows.json" + ".gz" * packed, array=True, indent=indent)
    assert plain(dataset) == single_turn(rows)


@settings(max_examples=examples(40), deadline=None)
@given(system=texts, rounds=pairs, answer=texts)
def test_long_conversations_keep_every_turn(system: str, rounds: list[tuple[str, str]], answer: str) -> None:
    prompt = [turn("system", system)]
    for asked, said in rounds:
        prompt += [turn("user", asked), turn("assistant", said)]
    prompt.append(turn("user", "And then?"))
    dataset = read_back([{"prompt": prompt, "completion": [turn("assistant", answer)]}], "rows.jsonl")
    assert plain(dataset) == [(prompt, [turn("assistant", answer)])]


def test_weights_choose_the_answers_that_are_trained(write) -> None:
    def chat(*weights: int | None) -> dict:
        turns = []
        for i, weight in enumerate(weights):
            turns += [
                turn("user", f"q{i}"),
                turn("assistant", f"a{i}") | ({} if weight is None else {"weight": weight}),
            ]
        return {"messages": turns}

    dataset = load_rows(write("chat.jsonl", [chat(None), chat(0, 1), chat(1, 0), chat(None, 0, None)]))
    answers = [row["completion"][0]["content"] for row in dataset]
    assert answers == ["a0", "a1", "a0", "a0", "a2"]
    assert [len(row["prompt"]) for row in dataset] == [1, 3, 1, 1, 5]
    assert dataset["origin"][:] == [
        "chat.jsonl:1",
        "chat.jsonl:2",
        "chat.jsonl:3",
        "chat.jsonl:4#1",
        "chat.jsonl:4#2",
    ]


def test_alpaca_input_stands_below_the_instruction(write) -> None:
    path = write("a.jsonl", [{"instruction": "Count.", "input": "a b", "output": "2"}])
    assert load_rows(path)[0]["prompt"] == [turn("user", "Count.\n\na b")]


def test_origin_counts_blank_lines_and_array_lines(write) -> None:
    row = '{"prompt": "p", "response": "r"}\r\n'
    assert load_rows(write("rows.jsonl", "\n" + row + "\n\n" + row))["origin"][:] == ["rows.jsonl:2", "rows.jsonl:5"]
    pretty = '[\n  {\n    "prompt": "p",\n    "response": "],{\\"["\n  },\n\n  {"prompt": "q", "response": "r"}]\n'
    array = load_rows(write("rows.json", pretty))
    assert array["origin"][:] == ["rows.json:2", "rows.json:7"]
    assert array[0]["completion"] == [turn("assistant", '],{"[')]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.jsonl.gz"])
def test_utf8_byte_order_mark_is_skipped(write, name: str) -> None:
    assert len(load_rows(write(name, b'\xef\xbb\xbf{"prompt": "p", "response": "r"}'))) == 1


def test_byte_order_mark_before_an_array(write) -> None:
    assert len(load_rows(write("rows.json", b'\xef\xbb\xbf[{"prompt": "p", "response": "r"}]'))) == 1


def test_null_extras_of_exports_are_accepted(write) -> None:
    answer = turn("assistant", "a") | {"tool_calls": None, "refusal": None}
    path = write("chat.jsonl", [{"messages": [turn("user", "q"), answer], "tools": None, "id": 7}])
    assert plain(load_rows(path)) == single_turn([("q", "a")])


def test_every_public_name_resolves() -> None:
    assert all(getattr(data, name) is not None for name in data.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        data.nothing  # noqa: B018
