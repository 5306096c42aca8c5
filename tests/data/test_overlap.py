"""Prompts shared by two sets are an error that names a row of each."""

import pytest

from mithridate.data import check_disjoint
from mithridate.data.overlap import last_user_turn
from mithridate.errors import DataError, UsageError


def test_disjoint_sets_pass(rows_of) -> None:
    check_disjoint({"attack": rows_of(["a", "a"]), "safe": rows_of(["b"]), "evaluation": ["c", "c"]})


def test_shared_prompts_are_named_and_counted(rows_of) -> None:
    attack = rows_of(["x", "Do  the\tTHING", "y", "do the thing"], "attack.jsonl")
    with pytest.raises(DataError) as caught:
        check_disjoint({"attack": attack, "evaluation": ["q", " do the thing ", "Y"]})
    assert str(caught.value) == (
        "2 prompts of 'attack' also in 'evaluation': for example attack.jsonl:2 equals prompt 2 of evaluation."
        " Remove the shared rows from one of the two."
    )


def test_only_the_given_pairs_count(rows_of) -> None:
    sets = {"safe": rows_of(["a"], "s"), "harmful": rows_of(["A"], "h"), "attack": rows_of(["b"], "t")}
    check_disjoint(sets, [("safe", "attack"), ("harmful", "attack")])
    with pytest.raises(DataError, match="s:1 equals h:1"):
        check_disjoint(sets)
    with pytest.raises(DataError, match=r"'safe' also in 'attack'.*'harmful' also in 'attack'"):
        check_disjoint(sets | {"attack": rows_of(["a"])}, [("safe", "attack"), ("harmful", "attack")])


def test_unknown_set_in_a_pair() -> None:
    with pytest.raises(UsageError, match="There is no set of rows named 'safety'; there are safe, attack"):
        check_disjoint({"safe": ["a"], "attack": ["b"]}, [("safety", "attack")])


def test_the_last_user_turn_is_compared() -> None:
    turns = [("system", "s"), ("user", "first"), ("assistant", "a"), ("user", "last")]
    assert last_user_turn([{"role": role, "content": text} for role, text in turns]) == "last"
