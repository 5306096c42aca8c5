"""The verbs of a step."""

import random

import pytest
import torch

from mithridate.errors import DataError, DefenseError, UsageError
from tests.matrix.worlds import World


@pytest.fixture
def world():
    return World(random.Random(3), lora=False)


def test_a_stream_has_one_batch_per_step(world):
    step = world.step("user", world.data())
    first, second = step.gradient("harmful"), step.gradient("harmful")
    assert (first - second).norm() == 0
    assert step._streams["harmful"].drawn == step._streams["harmful"].batch_size


def test_what_is_not_given_is_named(world):
    step = world.step("user", world.data())
    with pytest.raises(DefenseError, match="stream 'jokes', which was not given"):
        step.gradient("jokes")
    with pytest.raises(DefenseError, match="unknown answers 'jokes'"):
        step.gradient("harmful", answers="jokes")
    bare = world.step("user", world.data()._replace(refusals=[]))
    with pytest.raises(DefenseError, match="refusal sentences"):
        bare.gradient("harmful", answers="refusals")


def test_training_rows_are_observed_once_and_at_the_undisplaced_weights_only_if_asked_there_first(world):
    step = world.step("user", world.data())
    step.gradient("harmful")
    assert step.observed.tokens == 0
    step.gradient("user")
    seen = step.observed.tokens, step.observed.nll
    step.gradient("user")
    assert (step.observed.tokens, step.observed.nll) == seen
    assert seen[0] == sum(int((batch["labels"] != -100).sum()) for batch in step.batches("user"))


def test_shares_are_recorded_for_every_row(world):
    data = world.data()
    step = world.step("user", data)
    step.gradient("user", log_weights=lambda rows: rows.row.double() / 10)
    rows, shares, losses, counted = step.shares
    assert all(counted)
    assert all(loss > 0 for loss in losses)
    assert sorted(rows) == sorted(row.position for row in data.main)
    expected = torch.tensor([row / 10 for row in rows], dtype=torch.float64).softmax(dim=0)
    assert shares == pytest.approx(expected.tolist())


def test_shares_are_those_of_the_last_weighting_of_the_trained_rows(world):
    data = world.data()
    step = world.step("user", data)
    step.gradient("user", log_weights=lambda rows: rows.row.double())
    step.gradient("user", log_weights=lambda rows: 0 * rows.nll)
    step.gradient("harmful", log_weights=lambda rows: rows.row.double())
    assert sorted(step.shares.rows) == sorted(row.position for row in data.main)
    assert step.shares.shares == pytest.approx([1 / len(data.main)] * len(data.main))


def test_two_weightings_at_once_and_a_part_that_is_none_are_refused(world):
    step = world.step("user", world.data())
    with pytest.raises(DefenseError, match="log_weights or inside a loss, not both"):
        step.gradient("user", loss=lambda rows: rows.per_token(rows.nll), log_weights=lambda rows: rows.nll)
    for ask in (lambda: step.activation_gradient("user", "head"), lambda: step.gradient("user", hidden=("head",))):
        with pytest.raises(UsageError, match="no part 'head'; its parts are attention, mlp, block, final"):
            ask()


def test_refusals_are_cut_where_the_rows_are(world):
    data = world.data()
    step = world.step("user", data)
    longest = max(len(row.prompt) for row in data.main)
    step._longest = longest + 1
    for batch in step.batches("user", answers="refusals"):
        assert batch["input_ids"].shape[1] <= longest + 1
        assert ((batch["labels"] != -100).sum(dim=1) >= 1).all()
    step._longest = longest
    with pytest.raises(DataError, match=f"has {longest} tokens, so that no refusal fits into {longest}"):
        list(step.batches("user", answers="refusals"))


def test_scoring_other_answers_takes_no_gradient(world):
    step = world.step("user", world.data())
    scored = []
    step.gradient("user", log_weights=lambda rows: scored.append(step.with_completions(rows, "refusals")) or rows.nll * 0)
    assert scored
    assert not any(rows.nll.requires_grad for rows in scored)
