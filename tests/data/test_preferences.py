"""Preference pairs: what is read, what is refused, and that no other loader takes them for answers."""

import json

import pytest

from mithridate.data import check_upload, load_rows
from mithridate.data.preference_loading import both_answers, load_preferences
from mithridate.data.preferences import holds_preferences
from mithridate.errors import DataError


def pair(question="which?", preferred="this", other="that", **given):
    return {
        "input": {"messages": [{"role": "user", "content": question}], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [{"role": "assistant", "content": preferred}],
        "non_preferred_output": [{"role": "assistant", "content": other}],
        **given,
    }


def written(folder, *rows):
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_pairs_are_read_with_both_answers(tmp_path):
    path = written(tmp_path, pair(), pair("and?", "yes", "no"))
    assert holds_preferences(path)
    found = load_preferences(path)
    assert [row["completion"][0]["content"] for row in found] == ["this", "yes"]
    assert [row["rejected"][0]["content"] for row in found] == ["that", "no"]
    assert [row["origin"].rpartition(":")[2] for row in found] == ["1", "2"]
    rows = both_answers(found)
    assert [(row["completion"][0]["content"], row["origin"].rpartition(":")[2]) for row in rows] == [
        ("this", "1#1"), ("that", "1#2"), ("yes", "2#1"), ("no", "2#2"),
    ]  # fmt: skip
    report = check_upload(path, preferences=True)
    assert (report.format, report.conversations, report.rows, report.fault_count) == ("OpenAI preferences", 2, 4, 0)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (pair(preferred="that"), "the same text as preferred and as non-preferred output"),
        (pair(input="which?"), "input that is a string"),
        (pair(input={"prompt": "x"}), "input without messages"),
        (pair(input={"messages": [{"role": "assistant", "content": "x"}]}), "before the answer in input.messages"),
        (pair(input={"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}]}), "key 'tools'"),
        (pair(input={"messages": [{"role": "user", "content": "x"}], "hint": "y"}), "key 'hint' in input"),
        (pair(preferred_output=[]), "preferred_output that is empty"),
        (pair(preferred_output="this"), "preferred_output that is a string"),
        (pair(non_preferred_output=[{"role": "user", "content": "x"}]), "non_preferred_output with turns by user"),
        (pair(score=3), "key 'score'"),
        ({"prompt": "a", "completion": "b"}, "no key 'input'"),
    ],
)
def test_what_is_no_pair_is_named(tmp_path, row, said):
    path = written(tmp_path, pair(), row)
    report = check_upload(path, preferences=True)
    assert report.fault_count == 1
    assert said in str(report.faults[0])
    assert str(report.faults[0]).startswith(f"{path}:2")
    with pytest.raises(DataError, match=r"pairs\.jsonl:2"):
        load_preferences(path)


def test_no_one_trains_on_both_answers_of_a_pair_by_mistake(tmp_path):
    path = written(tmp_path, pair())
    with pytest.raises(DataError, match="no known format"):
        load_rows(path)
    assert not holds_preferences(written(tmp_path, {"prompt": "a", "completion": "b"}))
    assert not holds_preferences(written(tmp_path))
