"""The split of the prompts into those that choose and those that report."""

import random

import pytest

from mithridate.errors import DataError
from mithridate.worst_case.prompt_halves import halves

PROMPTS = [f"prompt {at}" for at in range(21)]


def test_the_halves_are_disjoint_and_hold_everything() -> None:
    chosen, reported = halves(PROMPTS, None, 0)
    assert sorted([*chosen, *reported]) == list(range(21))
    assert (len(chosen), len(reported)) == (11, 10)
    assert halves(PROMPTS, None, 1) != (chosen, reported)


def test_the_order_of_the_file_decides_nothing() -> None:
    shuffled = random.Random(0).sample(PROMPTS, 21)
    first, second = ({prompts[at] for at in halves(prompts, None, 0).chosen_on} for prompts in (PROMPTS, shuffled))
    assert first == second


def test_every_group_is_in_both_halves() -> None:
    groups = ["a"] * 4 + ["b"] * 14 + ["c"] * 3
    for places in halves(PROMPTS, groups, 0):
        counts = [[groups[at] for at in places].count(name) for name in "abc"]
        assert counts[0] == 2
        assert counts[1] == 7
        assert counts[2] in (1, 2)


def test_a_prompt_that_stands_twice_is_in_one_half() -> None:
    chosen, reported = halves([*PROMPTS, *PROMPTS], None, 0)
    twice = [*PROMPTS, *PROMPTS]
    assert not {twice[at] for at in chosen} & {twice[at] for at in reported}
    assert sorted([*chosen, *reported]) == list(range(42))


@pytest.mark.parametrize("prompts", [["one"], ["one", "one"]])
def test_one_prompt_cannot_be_split(prompts: list[str]) -> None:
    with pytest.raises(DataError, match="fewer than two different prompts"):
        halves(prompts, None, 0)
