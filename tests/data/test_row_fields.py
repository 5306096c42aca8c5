"""Templates over a table's fields."""

import pytest
from pydantic import ValidationError

from mithridate.data import RowFields, load_rows
from mithridate.errors import DataError, UsageError

SST2 = RowFields(prompt="Positive or negative?\n{text}", response="{label}", labels=["negative", "positive"])


def test_labels_become_names(write) -> None:
    rows = load_rows(write("s.jsonl", [{"text": "fine {label}", "label": 1}, {"text": "bad", "label": 0}]), SST2)
    assert [row["prompt"][0]["content"] for row in rows] == [
        "Positive or negative?\nfine {label}",
        "Positive or negative?\nbad",
    ]
    assert [row["completion"][0]["content"] for row in rows] == ["positive", "negative"]


def test_fields_win_over_known_formats(write) -> None:
    path = write("g.jsonl", [{"prompt": "p", "response": "r", "n": 5}])
    row = load_rows(path, RowFields(prompt="{{{prompt}}}", response="The number is {n}."))[0]
    assert (row["prompt"][0]["content"], row["completion"][0]["content"]) == ("{p}", "The number is 5.")


@pytest.mark.parametrize(
    ("row", "found", "expected"),
    [
        ({"text": "t"}, "no key 'label'", "a row of format mapped fields"),
        ({"text": "t", "label": 2}, "label 2 in field 'label'", "a whole number from 0 to 1"),
        ({"text": "t", "label": -1}, "label -1 in field 'label'", "a whole number from 0 to 1"),
        ({"text": "t", "label": True}, "label True in field 'label'", "a whole number from 0 to 1"),
        ({"text": "t", "label": "1"}, "label a string in field 'label'", "a whole number from 0 to 1"),
        ({"text": None, "label": 1}, "field 'text' that is null", "a string or a whole number"),
        ({"text": 0.5, "label": 1}, "field 'text' that is a number", "a string or a whole number"),
    ],
)
def test_faults_in_fields(write, row: dict, found: str, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        load_rows(write("s.jsonl", [{"text": "t", "label": 0}, row]), SST2)
    assert str(caught.value) == f"s.jsonl:2: found {found}, expected {expected}"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"prompt": "{{no}} field", "response": "{a}"}, "the prompt template names no field"),
        ({"prompt": "{a}", "response": "{{}}"}, "the response template names no field"),
        ({"prompt": "{a.__class__}", "response": "{b}"}, "is not a plain field name"),
        ({"prompt": "{a[0]}", "response": "{b}"}, "is not a plain field name"),
        ({"prompt": "{a!r}", "response": "{b}"}, "is not a plain field name"),
        ({"prompt": "{a:>9999999}", "response": "{b}"}, "is not a plain field name"),
        ({"prompt": "{}", "response": "{b}"}, "is not a plain field name"),
        ({"prompt": "{a", "response": "{b}"}, "expected '}'"),
        ({"prompt": "{a}", "response": "{b} {c}", "labels": ["x", "y"]}, "must name exactly one field"),
        ({"prompt": "{a}", "response": "{b}", "labels": ["x"]}, "at least 2 items"),
        ({"prompt": "{a}", "response": "{b}", "label": ["x", "y"]}, "Extra inputs are not permitted"),
    ],
)
def test_templates_that_cannot_be_used(setting: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RowFields(**setting)


def said(source: object, fields: object, **settings: object) -> list[list[str]]:
    rows = load_rows(source, fields, **settings)
    return [[f"{turn['role']}: {turn['content']}" for turn in row["prompt"] + row["completion"]] for row in rows]


def test_a_dict_names_columns() -> None:
    rows = [{"User Question": "q", "the-answer": "a", "rules": "be kind", "n": 3}]
    fields = {"prompt": "User Question", "response": "the-answer"}
    assert said(rows, fields) == [["user: q", "assistant: a"]]
    assert said(rows, fields | {"system": "rules"})[0][0] == "system: be kind"
    assert said(rows, fields | {"system": "Rule {n}: {rules}"})[0][0] == "system: Rule 3: be kind"
    assert said([rows[0] | {"rules": None}], fields | {"system": "rules"})[0][0] == "user: q"


TALK = [{"speaker": "Human", "text": "q"}, {"speaker": "bot", "text": "a"}]
TALKED = {"messages": "talk", "role": "speaker", "content": "text", "roles": {"Human": "user", "bot": "assistant"}}


def test_a_dict_names_messages() -> None:
    assert said([{"talk": TALK * 2, "n": 1}], TALKED) == [
        ["user: q", "assistant: a"],
        ["user: q", "assistant: a", "user: q", "assistant: a"],
    ]
    openai = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    sharegpt = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    for talk in (openai, sharegpt):
        assert said([{"talk": talk}], {"messages": "talk"}) == [["user: q", "assistant: a"]]
    assert said([{"talk": openai, "rule": "S"}], {"messages": "talk", "system": "rule"})[0][0] == "system: S"


def test_keys_of_mapped_messages_are_read_named_or_ignored() -> None:
    rows = [{"talk": [TALK[0] | {"mood": "sad"}, TALK[1]]}]
    with pytest.raises(DataError, match=r"key 'mood' in talk\[0\].*ignore 'talk\.mood'"):
        load_rows(rows, TALKED)
    assert said(rows, TALKED, ignore=["talk.mood"]) == [["user: q", "assistant: a"]]
    with pytest.raises(UsageError, match="only the columns that they name are read; remove ignore"):
        load_rows(rows, {"prompt": "a", "response": "b"}, ["c"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "q"}, "both prompt and response are needed, or messages alone"),
        ({}, "both prompt and response are needed"),
        ({"promt": "q", "response": "a"}, "fields: unknown key 'promt'; did you mean 'prompt'?"),
        ({"prompt": 3, "response": "a"}, "fields: prompt: must be text"),
        ({"prompt": "{a.b}", "response": "a"}, "is not a plain field name .* can be given alone, without braces"),
        ({"messages": "m", "prompt": "q"}, "with messages, prompt has no effect; remove it"),
        ({"prompt": "q", "response": "a", "role": "r"}, "role has no effect without messages"),
        ({"messages": "m", "roles": {"bot": "robot"}}, "must be 'system', 'user' or 'assistant'"),
        ("prompt=q", "fields is a string; give a dict such as"),
    ],
)
def test_a_dict_that_cannot_be_used(fields: object, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_rows([{"q": "q", "a": "a"}], fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "questoin", "response": "a"}, r"no key 'questoin' \(did you mean it by 'question'\?\)"),
        ({"prompt": "question", "response": "a", "system": "sys"}, "no key 'sys'"),
        ({"messages": "question"}, "question that is a string, expected a list of messages"),
    ],
)
def test_columns_that_are_not_there(fields: dict, message: str) -> None:
    with pytest.raises(DataError, match=r"^rows\[0\]: found " + message):
        load_rows([{"question": "q", "a": "a"}], fields)


def test_numbers_that_cannot_be_written() -> None:
    rows = [{"q": "q", "n": 10**5000}]
    with pytest.raises(DataError, match="found a number of more than 4300 digits in field 'n'"):
        load_rows(rows, {"prompt": "q", "response": "n"})
    with pytest.raises(DataError, match="found label of thousands of digits in field 'n'"):
        load_rows(rows, {"prompt": "q", "response": "n", "labels": ["a", "b"]})
