"""Refusals behind the start of a harmful answer: how much of it, and that the refusal always fits."""

import random

import pytest

from mithridate.models.tokenization import IGNORED, TokenizedRow
from mithridate.training.recovery_rows import recovery_rows
from tests.matrix.worlds import World


def test_a_row_behind_some_tokens_has_them_in_its_prompt():
    row = TokenizedRow([5, 6, 7, 8, 9], [IGNORED, IGNORED, 7, 8, 9], 3)
    assert row.prompt_length == 2
    assert row.behind(2) == TokenizedRow([5, 6, 7, 8, 9], [*[IGNORED] * 4, 9], 3)
    assert row.behind(0) == row


@pytest.mark.parametrize("beyond", [None, 0, 1, 3])
def test_a_refusal_fits_behind_every_start(beyond):
    world = World(random.Random(5), lora=False)
    data = world.data()
    data = data._replace(harmful=world.rows(8), later=[])
    step = world.step("safe", data)
    longest = max(len(refusal) for refusal in data.refusals)
    if beyond is not None:
        step._rows._longest = max(len(row.prompt) for row in data.harmful) + longest + beyond
    depths = []
    for row, before in zip(recovery_rows(step, 100, shallow=0.0), step.rows_of("harmful"), strict=True):
        depths.append(row.prompt_length - before.prompt_length)
        assert depths[-1] < len(before.input_ids) - before.prompt_length
        assert beyond is None or row.prompt_length + longest <= step._rows._longest
    assert any(depths)


def test_depths_are_the_same_again_and_others_in_another_step():
    world = World(random.Random(5), lora=False)
    data = world.data()._replace(harmful=world.rows(8))
    first, again, later = (
        [row.prompt_length for row in recovery_rows(world.step("safe", given), 100, shallow=0.2)]
        for given in (data, data, data._replace(clock=data.clock._replace(number=1)))
    )
    assert first == again
    assert first != later
