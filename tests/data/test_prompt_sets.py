"""Rows and prompts by name."""

import pytest

from mithridate import miniature
from mithridate.data import RowFields, load_rows, mix, read_prompts
from mithridate.errors import DataError, UsageError


def test_a_path_with_and_without_fields(write) -> None:
    path = write("rows.jsonl", [{"prompt": "p", "target": "t", "response": "r"}])
    assert load_rows(str(path), ignore=["target"])[0]["completion"][0]["content"] == "r"
    with pytest.raises(DataError, match=r"^rows\.jsonl:1: found key 'target' .* not read, .*ignore 'target'$"):
        load_rows(str(path))
    fields = RowFields(prompt="{prompt}", response="{target}")
    assert load_rows(path, fields)[0]["completion"][0]["content"] == "t"


@pytest.mark.parametrize("read", [load_rows, read_prompts])
def test_a_hub_data_set_out_of_reach(write, read) -> None:
    with pytest.raises(DataError, match=r"'tatsu-lab/alpaca' is no file or folder here, .* download it and give"):
        read("tatsu-lab/alpaca")


@pytest.mark.parametrize("read", [load_rows, read_prompts])
def test_a_missing_file_is_not_taken_for_a_hub_id(write, read) -> None:
    with pytest.raises(DataError, match=r"^data/rows\.jsonl: found no file"):
        read("data/rows.jsonl")


def test_the_embedded_world() -> None:
    name = f"miniature:{miniature.names()[0]}"
    rows = load_rows(name)
    assert rows["origin"][0] == f"{name}:0"
    assert read_prompts(name) == miniature.prompts(name)
    with pytest.raises(UsageError, match="remove the fields setting"):
        load_rows(name, RowFields(prompt="{a}", response="{b}"))


def test_embedded_rows_mix_with_rows_of_a_file(write) -> None:
    task = load_rows(write("task.jsonl", [{"prompt": "an ordinary question", "response": "r"}]))
    mixed = mix(task, load_rows(f"miniature:{miniature.names()[0]}"), ratio=0.5, size=2, seed=0)
    assert sorted(mixed["harmful"]) == [False, True]


def test_ignored_keys_need_rows_of_a_file(write) -> None:
    with pytest.raises(UsageError, match="remove the ignore setting"):
        load_rows(f"miniature:{miniature.names()[0]}", ignore=["a"])
    with pytest.raises(UsageError, match="only the columns that they name are read; remove ignore"):
        load_rows("rows.jsonl", RowFields(prompt="{a}", response="{b}"), ignore=["a"])
    with pytest.raises(UsageError, match=r"give a list of keys: ignore=\['target'\]"):
        load_rows("rows.jsonl", ignore="target")


@pytest.mark.parametrize("key", ["system", "history", "context", "input", "instruction"])
def test_a_key_that_changes_what_a_prompt_asks_is_refused(write, key: str) -> None:
    path = write("p.jsonl", [{"prompt": "one", key: ""}, {"prompt": "two", "note": "n", key: ["x"]}])
    with pytest.raises(DataError, match=rf"^p\.jsonl:2: found key '{key}' beside the prompt, .*ignore '{key}'$"):
        read_prompts(path)
    assert read_prompts(path, ignore=[key]) == ["one", "two"]


def test_prompts_of_a_table(write) -> None:
    assert read_prompts(write("p.csv", 'note,prompt\n1,"one, two"\n2,three\n')) == ["one, two", "three"]


def test_prompts_of_every_kind(write) -> None:
    rows = [{"prompt": "one", "target": "x"}, {"prompt": "two"}]
    assert read_prompts(write("p.jsonl", rows)) == ["one", "two"]
    assert read_prompts(write("p.jsonl.gz", rows)) == ["one", "two"]
    assert read_prompts(write("p.json", '[{"prompt": "one"},\n{"prompt": "two"}]')) == ["one", "two"]
    assert read_prompts(write("p.txt", "[one]\r\n\n two \n")) == ["[one]", "two"]
    assert read_prompts(write("p.txt.gz", "one\ntwo")) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "p.jsonl",
            '{"prompt": "a"}\n{"text": "b"}',
            "p.jsonl:2: found no key 'prompt', expected an object with a string 'prompt'",
        ),
        ("p.jsonl", '{"prompt": 3}', "p.jsonl:1: found prompt that is a number, expected a string"),
        (
            "p.jsonl",
            '{"prompt": [{"role": "user", "content": "q"}]}',
            "p.jsonl:1: found prompt that is a list, expected a string",
        ),
        ("p.jsonl", "", "p.jsonl:1: found an empty file, expected at least one row"),
        ("p.txt", "a\nb\0", "p.txt:2: found a NUL byte at byte 2, expected UTF-8 text"),
        ("p.txt", b"a\n\xff", "p.txt:2: found byte 0xff at byte 1, expected UTF-8 text"),
        ("p.jsonl", "x\ny", "2 faults in p.jsonl:\n"),
    ],
)
def test_faults_in_prompts(write, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_prompts(write(name, content))
    assert str(caught.value).startswith(message)
