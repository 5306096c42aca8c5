"""The verbs of a step."""

import random

import pytest
import torch

from mithridate.errors import DataError, DefenseError, UsageError
from mithridate.training.gradient import Gradient
from tests.matrix.worlds import World


@pytest.fixture
def world():
    return World(random.Random(3), lora=False)


def test_a_stream_has_one_batch_per_step(world):
    step = world.step("user", world.data())
    first, second = step.gradient("harmful"), step.gradient("harmful")
    assert (first - second).norm() == 0
    assert step._rows._streams["harmful"].drawn == step._rows._streams["harmful"].batch_size


def test_what_is_not_given_is_named(world):
    step = world.step("user", world.data())
    with pytest.raises(DefenseError, match="stream 'jokes', which was not given"):
        step.gradient("jokes")
    with pytest.raises(DefenseError, match="unknown completions 'jokes'"):
        step.gradient("harmful", completions="jokes")
    bare = world.step("user", world.data()._replace(refusals=[]))
    with pytest.raises(DefenseError, match="refusal sentences"):
        bare.gradient("harmful", completions="refusals")


def test_training_rows_are_observed_once_and_at_the_undisplaced_weights_only_if_asked_there_first(world):
    step = world.step("user", world.data())
    step.gradient("harmful")
    assert step.observed.tokens == 0
    step.gradient("user")
    seen = step.observed.tokens, step.observed.nll
    step.gradient("user")
    assert (step.observed.tokens, step.observed.nll) == seen
    assert seen[0] == sum(int((batch["labels"] != -100).sum()) for batch in step._rows.batches("user"))


def test_shares_are_recorded_for_every_row(world):
    data = world.data()
    step = world.step("user", data)
    rows, shares, losses = step.gradient("user", log_weights=lambda rows: rows.row.double() / 10).row_shares
    assert all(loss > 0 for loss in losses)
    assert sorted(rows) == sorted(row.position for row in data.main)
    expected = torch.tensor([row / 10 for row in rows], dtype=torch.float64).softmax(dim=0)
    assert shares == pytest.approx(expected.tolist())


def test_every_gradient_has_the_shares_of_its_own_weighting_of_the_trained_rows(world):
    data = world.data()
    step = world.step("user", data)
    steep = step.gradient("user", log_weights=lambda rows: rows.row.double())
    even = step.gradient("user", log_weights=lambda rows: 0 * rows.nll)
    assert step.gradient("harmful", log_weights=lambda rows: rows.row.double()).row_shares is None
    assert step.gradient("user").row_shares is None
    assert sorted(even.row_shares.rows) == sorted(row.position for row in data.main)
    assert even.row_shares.shares == pytest.approx([1 / len(data.main)] * len(data.main))
    logs = torch.tensor(steep.row_shares.rows, dtype=torch.float64)
    assert steep.row_shares.shares == pytest.approx(logs.softmax(dim=0).tolist())


def test_two_weightings_at_once_and_a_part_that_is_none_are_refused(world):
    step = world.step("user", world.data())
    with pytest.raises(DefenseError, match="log_weights or inside a loss, not both"):
        step.gradient("user", loss=lambda rows: rows.per_token(rows.nll), log_weights=lambda rows: rows.nll)
    for ask in (lambda: step.activation_gradient("user", "head"), lambda: step.score("user", hidden=("head",))):
        with pytest.raises(UsageError, match="no part 'head'; its parts are attention, mlp, block, final"):
            ask()


def test_refusals_are_cut_where_the_rows_are(world):
    data = world.data()
    step = world.step("user", data)
    longest = max(len(row.prompt) for row in data.main)
    step._rows._longest = longest + 1
    for batch in step._rows.batches("user", completions="refusals"):
        assert batch["input_ids"].shape[1] <= longest + 1
        assert ((batch["labels"] != -100).sum(dim=1) >= 1).all()
    step._rows._longest = longest
    with pytest.raises(DataError, match=f"has {longest} tokens, so that no refusal fits into {longest}"):
        list(step._rows.batches("user", completions="refusals"))


def test_scoring_other_answers_takes_no_gradient(world):
    step = world.step("user", world.data())
    scored = []
    step.gradient("user", log_weights=lambda rows: scored.append(rows.paired) or rows.nll * 0, paired="refusals")
    assert scored
    assert not any(rows.nll.requires_grad for rows in scored)


PLAIN = {"loss": lambda rows: rows.per_token(rows.nll)}
OVER = {"step_loss": lambda rows: rows["nll"][0], "features": lambda rows: {"nll": list(rows.nll)}}
WEIGHTS = {"log_weights": lambda rows: 0 * rows.nll}
CONTRADICTIONS = {
    "two losses": (PLAIN | OVER, "two losses; take a gradient of each"),
    "a step loss with weights": (OVER | WEIGHTS, "log_weights or inside a loss, not both"),
    "a step loss without features": ({"step_loss": OVER["step_loss"]}, "give both or neither"),
    "features without a loss": ({"features": OVER["features"]}, "give both or neither"),
    "paired and in their place": (PLAIN | {"paired": "refusals", "completions": "refusals"}, "give one"),
    "paired for nobody": ({"paired": "refusals"}, "paired= is for a loss"),
    "hidden for nobody": ({"hidden": ("mlp",)}, "hidden= is for a loss"),
    "logits for nobody": ({"logits": True}, "logits= is for a loss"),
    "reference for nobody": ({"reference": True}, "reference= is for a loss"),
    "unknown completions": (PLAIN | {"paired": "jokes"}, "unknown completions 'jokes'"),
}


@pytest.mark.parametrize(("arguments", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_arguments_that_contradict_each_other_are_refused(world, arguments, message):
    with pytest.raises(DefenseError, match=message):
        world.step("user", world.data()).gradient("user", **arguments)


def test_gradients_are_refused_where_there_are_none_and_where_they_would_see_a_perturbation(world):
    step = world.step("user", world.data())
    with pytest.raises(DefenseError, match="gradients are off here"), step.at_start():
        step.gradient("user")
    noise = step.activation_gradient("user", "attention")
    for wanted in ({"reference": True}, {"paired": "refusals"}):
        with pytest.raises(DefenseError, match="outside perturbed"), step.perturbed("attention", noise):
            step.gradient("user", **PLAIN, **wanted)
    with (
        pytest.raises(DefenseError, match="perturbed already"),
        step.perturbed("attention", noise),
        step.perturbed("attention", noise),
    ):
        pass
    assert (step.gradient("user") - step.gradient("user")).norm() == 0


def test_paired_rows_are_those_that_would_be_scored_in_their_place(world):
    step = world.step("user", world.data())
    seen = []

    def loss(rows):
        seen.append(rows.paired.nll.detach())
        return rows.per_row(rows.nll) + rows.paired.per_token(rows.paired.nll)

    both = step.gradient("user", loss=loss, paired="refusals")
    scored = step.score("user", completions="refusals")
    torch.testing.assert_close(torch.cat(seen), torch.cat([rows.nll for rows in scored]), rtol=1e-6, atol=0)
    own = step.gradient("user", loss=lambda rows: rows.per_row(rows.nll))
    apart = own + step.gradient("user", completions="refusals")
    assert (both - apart).norm() <= 1e-5 * apart.norm()
    with pytest.raises(DefenseError, match="paired='refusals'"):
        step.gradient("user", loss=lambda rows: rows.per_row(rows.paired.nll))


def test_likelihoods_at_the_start_are_scored_once_and_for_the_rows_they_belong_to(world, monkeypatch):
    world.weights.add(0.3 * world.step("user", world.data()).gradient("user"))
    step = world.step("user", world.data())
    held_out, passes = step.rows_of("harmful"), []
    original = step._passes._score_at_start
    monkeypatch.setattr(step._passes, "_score_at_start", lambda *given: passes.append(1) or original(*given))

    def references(rows):
        seen = []
        step.gradient(
            rows,
            loss=lambda r: seen.append(r.reference.nll) or r.per_row(r.nll - r.paired.nll),
            paired="refusals",
            reference=True,
        )
        return torch.cat(seen)

    first = references(held_out)
    count = len(passes)
    assert torch.equal(first, references(held_out))
    assert len(passes) == count > 0
    other = [row._replace(input_ids=[2, *row.input_ids[1:]]) for row in held_out]
    assert not torch.equal(first, references(other)), "rows of the same number and length are other rows"
    with step.precise():
        references(held_out)
    assert len(passes) == 3 * count
    with step.at_start():
        expected = torch.cat([rows.nll for rows in step.score(held_out)])
    assert torch.equal(first, expected)


def test_a_simulated_training_is_undone_even_after_an_exception(world):
    step = world.step("user", world.data())
    before = world.weights.snapshot()

    def failing():
        with step.simulated(torch.optim.SGD, lr=0.5, momentum=0.9) as follow:
            for _ in range(2):
                follow(step.gradient("harmful"))
            assert not all(torch.equal(a, b) for a, b in zip(before, world.weights.parameters, strict=True))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert all(torch.equal(a, b) for a, b in zip(before, world.weights.parameters, strict=True))
    assert all(parameter.grad is None for parameter in world.weights.parameters)


def test_gradients_know_what_is_frozen_and_sums_freeze_what_all_their_terms_freeze():
    world = World(random.Random(1), lora=False)
    step = world.step("user", world.data())
    with step.training_only([0]):
        inner = step.gradient("user")
        with pytest.raises(DefenseError, match="one training_only block at a time"), step.training_only([0]):
            pass
    outer = step.gradient("user")
    frozen = [".layers." in name and ".layers.0." not in name for name in world.weights.names]
    assert outer.frozen is None
    assert inner.frozen == tuple(frozen)
    assert (2 * inner - inner / 3).frozen == (-inner).unit().frozen == tuple(frozen)
    assert (inner + outer).frozen is (outer - inner).frozen is None
    assert all(parameter.requires_grad for parameter in world.weights.parameters)


def test_row_weights_go_with_the_arithmetic_and_two_weightings_are_not_mixed(world):
    step = world.step("user", world.data())
    weighted = step.gradient("user", log_weights=lambda rows: rows.row.double())
    extra = step.gradient("harmful")
    for mixed in (weighted + extra, extra - weighted, -(3 * weighted) / 2, weighted - weighted):
        assert mixed.row_shares is weighted.row_shares
    other = step.gradient("user", log_weights=lambda rows: 0 * rows.nll)
    with pytest.raises(DefenseError, match="no row has one weight"):
        _ = weighted + other
    assert (weighted + Gradient(other.tensors)).row_shares is weighted.row_shares
