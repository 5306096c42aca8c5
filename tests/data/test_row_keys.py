"""Nothing that a row says is lost: it is read, or a fault names the row and the key."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.examples import examples

from mithridate.data import load_rows
from mithridate.data.row_keys import HARMLESS, is_empty
from mithridate.errors import DataError

texts = st.text('abcdeé ,"\\', min_size=1, max_size=12).filter(str.strip)
values = st.one_of(texts, st.lists(texts, max_size=2), st.none(), st.just(""), st.integers(), st.booleans())
names = st.one_of(
    st.sampled_from(
        ["system", "history", "context", "input", "tools", "weight", "label", "name", "sytem", "tool_calls"]
    ),
    st.text("xyz", min_size=1, max_size=3),
)


def turn(role: str, content: str) -> dict:
    return {"role": role, "content": content}


FORMS = {
    "chat": lambda p, a: {"messages": [turn("user", p), turn("assistant", a)]},
    "sharegpt": lambda p, a: {"conversations": [{"from": "human", "value": p}, {"from": "gpt", "value": a}]},
    "completion": lambda p, a: {"prompt": p, "completion": a},
    "conversation": lambda p, a: {"prompt": [turn("user", p)], "completion": [turn("assistant", a)]},
    "alpaca": lambda p, a: {"instruction": p, "output": a},
    "response": lambda p, a: {"prompt": p, "response": a},
}


def leaves(value: object) -> list[object]:
    """Every text and number in a value."""
    if isinstance(value, dict | list):
        return [leaf for inner in (value.values() if isinstance(value, dict) else value) for leaf in leaves(inner)]
    return [] if is_empty(value) else [value]


def loaded(row: dict) -> list[dict] | str:
    """The rows made of a row, or the error."""
    try:
        return list(load_rows([row]))
    except DataError as error:
        return str(error)


def named(error: str, extra: dict) -> bool:
    return error.startswith("rows[0]: found ") and any(key in error for key in extra)


def said(row: dict) -> list[str]:
    return [message["content"] for message in [*row["prompt"], *row["completion"]]]


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=examples(50))
@given(prompt=texts, answer=texts, extra=st.dictionaries(names, values, max_size=3))
def test_every_key_of_a_row_is_read_or_named(form: str, prompt: str, answer: str, extra: dict) -> None:
    row = extra | FORMS[form](prompt, answer)
    rows = loaded(row)
    if isinstance(rows, str):
        assert named(rows, extra), rows
        return
    kept = "\n".join(text for made in rows for text in said(made))
    assert all(str(leaf) in kept for value in (prompt, answer, extra) for leaf in leaves(value))


@pytest.mark.parametrize("form", ["chat", "conversation", "sharegpt"])
@settings(max_examples=examples(100))
@given(extra=st.dictionaries(names, values, min_size=1, max_size=2), which=st.integers(0, 1))
def test_every_key_of_a_message_is_read_or_named(form: str, extra: dict, which: int) -> None:
    row = FORMS[form]("question", "answer")
    messages = row.get("messages") or row.get("conversations") or [*row["prompt"], *row["completion"]]
    messages[which].update(extra)
    rows = loaded(row)
    if isinstance(rows, str):
        assert named(rows, extra), rows
        return
    assert [said(made) for made in rows] == [["question", "answer"]]
    assert all(is_empty(value) or key == "weight" for key, value in extra.items())


def test_alpaca_of_llama_factory_keeps_system_and_history(write) -> None:
    row = {"instruction": "i", "input": None, "output": "o", "system": "S", "history": [["q", "a"], ["r", "b"]]}
    loaded = load_rows(write("rows.json", json.dumps([row, row | {"history": [], "system": ""}])))
    assert loaded[0]["prompt"] == [
        turn("system", "S"),
        *(turn("user", "q"), turn("assistant", "a"), turn("user", "r"), turn("assistant", "b")),
        turn("user", "i"),
    ]
    assert loaded[0]["completion"] == [turn("assistant", "o")]
    assert loaded[1]["prompt"] == [turn("user", "i")]


def test_sharegpt_is_read_turn_by_turn() -> None:
    says = [("system", "S"), ("human", "q"), ("gpt", "a"), ("human", "r"), ("gpt", "b")]
    rows = load_rows([{"conversations": [{"from": who, "value": text} for who, text in says], "id": "x"}])
    assert [said(row) for row in rows] == [["S", "q", "a"], ["S", "q", "a", "r", "b"]]
    assert rows[1]["origin"] == "rows[0]#2"


def test_a_system_key_stands_before_every_answer_of_a_conversation() -> None:
    row = {"system": "S", "messages": [turn("user", "q"), turn("assistant", "a")] * 2}
    assert [said(made) for made in load_rows([row])] == [["S", "q", "a"], ["S", "q", "a", "q", "a"]]


@pytest.mark.parametrize("key", sorted(HARMLESS))
def test_harmless_keys_may_hold_anything(key: str) -> None:
    assert said(load_rows([{"prompt": "p", "response": "r", key: {"any": ["thing"]}}])[0]) == ["p", "r"]


def test_keys_are_left_out_on_purpose(write) -> None:
    named = turn("user", "q") | {"name": "Ann"}
    row = {"messages": [named, turn("assistant", "a")], "score": 3}
    path = write("rows.jsonl", [row])
    with pytest.raises(DataError, match=r"^rows\.jsonl:1: found key 'name' in messages\[0\].*ignore 'messages.name'$"):
        load_rows(path)
    with pytest.raises(DataError, match=r"^rows\.jsonl:1: found key 'score' in a row of format OpenAI chat, "):
        load_rows(path, ignore=["messages.name"])
    assert said(load_rows(path, ignore=["messages.name", "score"])[0]) == ["q", "a"]
    both = {"prompt": "p", "response": "r", "completion": "c"}
    assert said(load_rows([both], ignore=["completion"])[0]) == ["p", "r"]


def test_a_misspelled_key_is_named_with_the_nearest() -> None:
    with pytest.raises(DataError, match=r"key 'sytem' .*expected 'system' \(a misspelling\?\)"):
        load_rows([{"prompt": "p", "response": "r", "sytem": "s"}])


def test_a_preference_row_is_not_taken_for_an_answer() -> None:
    """Rows for DPO or KTO also say which answers are bad; training on all of them would teach those."""
    for extra in ({"rejected": "no"}, {"label": False}):
        with pytest.raises(DataError, match=rf"key '{next(iter(extra))}'"):
            load_rows([{"prompt": "p", "completion": "c"} | extra])


def test_texts_come_back_as_they_were() -> None:
    odd = "  \ufeffa\r\nb\t\u200b<|x|> "
    assert said(load_rows([{"prompt": odd, "response": odd}])[0]) == [odd, odd]
