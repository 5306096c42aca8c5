"""Data sets handed over in Python."""

import pytest
from datasets import Dataset, DatasetDict, IterableDataset

from mithridate.data import load_rows, require_rows
from mithridate.errors import DataError

Q, A = [{"role": "user", "content": "q"}], [{"role": "assistant", "content": "a"}]
PAIR = {"prompt": Q, "completion": A}
PASS = r"pass mi\.load_rows\(safe_dataset\)"


def rows(*found: dict) -> Dataset:
    return Dataset.from_list(list(found))


@pytest.mark.parametrize(
    "dataset", [rows(PAIR, PAIR), [PAIR, PAIR], rows({"prompt": "q", "completion": "a"}), load_rows([PAIR])]
)
def test_rows_of_a_known_form_pass_unchanged(dataset) -> None:
    assert require_rows(dataset, "safe_dataset").to_list() == list(dataset)


def test_a_column_called_row_is_in_nobodys_way() -> None:
    kept = require_rows(rows(PAIR | {"row": 7, "id": "x", "origin": "f:1", "harmful": True}), "safe_dataset")
    assert set(kept.column_names) == {"prompt", "completion", "origin", "harmful"}


def test_only_trained_rows_may_be_messages_or_tokens() -> None:
    chat, tokens = rows({"messages": Q + A}), rows({"input_ids": [1, 2], "labels": [-100, 2]})
    assert require_rows(chat, "train_dataset", trained=True).column_names == ["messages"]
    assert require_rows(tokens, "train_dataset", trained=True).column_names == ["input_ids", "labels"]
    with pytest.raises(DataError, match=rf"these are OpenAI chat rows: {PASS}"):
        require_rows(chat, "safe_dataset")
    with pytest.raises(DataError, match="input_ids, labels, expected prompt and completion"):
        require_rows(tokens, "safe_dataset")
    with pytest.raises(DataError, match="without labels, so that prompts would be trained"):
        require_rows(rows({"input_ids": [1]}), "train_dataset", trained=True)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (None, "safe_dataset is not given"),
        ("x.jsonl", r"safe_dataset is the text 'x\.jsonl'; if it is a file, pass mi\.load_rows\('x\.jsonl'\)"),
        (3, "safe_dataset was given an int; give"),
        ([], "safe_dataset has no rows"),
        ([PAIR, 3], r"safe_dataset\[1\] is a number; give a dict"),
        (DatasetDict(train=rows(PAIR)), r"a DatasetDict; give one of its splits, such as dataset\['train'\]"),
        (IterableDataset.from_generator(lambda: iter([PAIR])), "a streamed data set; pass"),
        ([PAIR, {"prompt": "q", "completion": A}], rf"several types under one key .*; {PASS}"),
        (rows({"instruction": "i", "input": "", "output": "o"}), f"these are Alpaca rows: {PASS}"),
        (rows({"prompt": "q", "response": "a"}), f"these are prompt/response rows: {PASS}"),
        (rows({"conversations": [{"from": "human", "value": "q"}]}), f"these are ShareGPT rows: {PASS}"),
        (rows({"text": "t"}), "columns text, expected prompt and completion; text alone does not say where the answer"),
        (rows({"a": 1, "b": 2}), r"columns a, b, .*fields=\{'prompt'"),
        (rows({"promt": "q", "completion": "a"}), r"did you mean 'prompt'\? pass safe_dataset\.rename_column"),
        ([PAIR, PAIR | {"system": "s"}], rf"safe_dataset\[1\] has a value in the column 'system', .*{PASS}, or"),
        (rows(PAIR, {"prompt": None, "completion": A}), r"safe_dataset\[1\]: found prompt that is null"),
        (rows({"prompt": "q", "completion": None}), r"safe_dataset\[0\]: found completion that is null"),
        (rows({"prompt": "q", "completion": " "}), r"safe_dataset\[0\]: found completion that is empty"),
        (rows({"prompt": Q, "completion": A + Q + A}), "completion with turns by assistant, user, assistant"),
        (rows({"prompt": Q + A, "completion": A}), "assistant turn before the answer in prompt"),
        (rows({"prompt": [Q[0] | {"name": "Ann"}], "completion": A}), r"key 'name' in prompt\[0\]"),
    ],
)
def test_others_are_refused_in_one_sentence(dataset, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        require_rows(dataset, "safe_dataset")
    assert "\n" not in str(caught.value)
    assert "safe_dataset" in str(caught.value)


def test_weights_of_messages_are_left_to_load_rows() -> None:
    chat = rows({"messages": [*Q, A[0] | {"weight": 0}, *Q, A[0] | {"weight": 1}]})
    with pytest.raises(DataError, match=r"train_dataset\[0\]: found weight 0 in messages.*mi\.load_rows"):
        require_rows(chat, "train_dataset", trained=True)
    assert len(require_rows(load_rows(chat), "train_dataset", trained=True)) == 1


@pytest.mark.parametrize(
    "messages",
    [
        [Q[0] | {"role": "developer"}, *Q, *A],
        [turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in Q + A],
        [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
        {"role": ["user", "assistant"], "content": ["q", "a"]},
    ],
    ids=["developer", "parts", "ShareGPT's words", "lists"],
)
def test_messages_that_only_load_rows_reads_are_not_laid_out_as_they_are(messages) -> None:
    chat = [{"messages": messages}]
    with pytest.raises(DataError, match=r"train_dataset\[0\]: found messages.*mi\.load_rows, which reads it"):
        require_rows(chat, "train_dataset", trained=True)
    assert len(require_rows(load_rows(chat), "train_dataset", trained=True)) == 1
    if isinstance(messages, list):
        with pytest.raises(DataError, match=r"safe_dataset\[0\]: found .*mi\.load_rows, which reads it"):
            require_rows([{"prompt": messages[:-1], "completion": messages[-1:]}], "safe_dataset")


def test_columns_that_hold_nothing_are_no_fault() -> None:
    assert require_rows(rows(PAIR | {"system": None, "tools": []}), "safe_dataset").column_names == list(PAIR)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "rows: found no rows"),
        ([3], r"rows\[0\]: found a number, expected a dict"),
        (DatasetDict(a=rows(PAIR), b=rows(PAIR)), r"The DatasetDict has the splits a, b; .* split='a'"),
        ({"prompt": "p"}, "load_rows was given a dict; give a file's path"),
        (
            [PAIR, {"prompt": "p", "response": "r"}],
            r"rows\[1\]: found a row of format prompt/response, .* rows\[0\]",
        ),
    ],
)
def test_load_rows_of_what_is_no_file(source, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_rows(source)


def test_load_rows_of_a_formatted_data_set() -> None:
    assert load_rows(rows({"prompt": "q", "response": "a"}).with_format("numpy"))[0]["prompt"] == Q
