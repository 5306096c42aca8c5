"""Templates over a table's fields."""

import pytest
from pydantic import ValidationError

from mithridate.data import RowFields, load_rows
from mithridate.errors import DataError

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
