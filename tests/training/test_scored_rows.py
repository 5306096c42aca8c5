"""Losses made of per-token and per-row means."""

import random

import pytest
import torch

from mithridate.errors import DefenseError
from mithridate.models.batches import batches
from mithridate.models.tokenization import tokenize
from mithridate.training.scoring import Likelihood
from mithridate.training.trainable import Weights
from tests.helpers import tiny
from tests.helpers.gradients import loss_gradient, weighted_gradient
from tests.matrix.worlds import World

MODEL = tiny.model()


def _parts(size):
    return list(batches(tokenize(tiny.rows("safe", 6), tiny.tokenizer()), size, 0))


LOSSES = {
    "per token": lambda rows: rows.per_token(rows.nll),
    "per row": lambda rows: rows.per_row(rows.mean_nll),
    "both": lambda rows: rows.per_token(rows.nll) + 0.3 * rows.per_row(rows.nll**2),
    "once": lambda rows: rows.once(rows.nll.sum()),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize("size", [1, 4])
def test_however_the_step_is_cut_the_gradient_is_the_same(loss, size):
    likelihood = Likelihood(MODEL, Weights(MODEL))
    whole, cut = (loss_gradient(likelihood, loss, _parts(rows)) for rows in (6, size))
    assert (whole - cut).norm() <= 1e-5 * whole.norm()


def test_the_mean_over_tokens_is_the_plain_loss_bit_for_bit():
    likelihood = Likelihood(MODEL, Weights(MODEL))
    plain, same = weighted_gradient(likelihood, _parts(2)), loss_gradient(likelihood, LOSSES["per token"], _parts(2))
    assert all(torch.equal(a, b) for a, b in zip(plain.tensors, same.tensors, strict=True))


def test_the_mean_over_rows_is_the_mean_of_the_rows_gradients():
    likelihood = Likelihood(MODEL, Weights(MODEL))
    single = [weighted_gradient(likelihood, [batch]) for batch in _parts(1)]
    mean = sum(single[1:], single[0]) / len(single)
    assert (loss_gradient(likelihood, LOSSES["per row"], _parts(6)) - mean).norm() <= 1e-5 * mean.norm()


def test_means_exist_inside_a_loss_only():
    rows = Likelihood(MODEL, Weights(MODEL)).score(_parts(6)[0])
    with pytest.raises(DefenseError, match="inside a loss only"):
        rows.per_row(rows.nll)
    with pytest.raises(DefenseError, match="logits=True"):
        _ = rows.logits
    with pytest.raises(DefenseError, match="reference=True"):
        _ = rows.reference


REDUCED = {
    "a plain mean": lambda rows: rows.nll.mean(),
    "a mean per token": lambda rows: rows.per_token(rows.nll.mean()),
    "a mean per row": lambda rows: rows.per_row(rows.nll.mean()),
    "tokens per row": lambda rows: rows.per_row(rows.log_probs),
    "rows once": lambda rows: rows.once(rows.nll),
}


@pytest.mark.parametrize("loss", REDUCED.values(), ids=REDUCED.keys())
def test_a_loss_whose_scale_would_depend_on_the_cut_is_refused(loss):
    with pytest.raises(DefenseError, match=r"rows\.(per_token|per_row|once)"):
        loss_gradient(Likelihood(MODEL, Weights(MODEL)), loss, _parts(4))


def test_shares_add_and_scale_like_the_losses_they_are_made_of():
    likelihood = Likelihood(MODEL, Weights(MODEL))
    first, second = LOSSES["per token"], LOSSES["per row"]
    mixed = loss_gradient(likelihood, lambda rows: -(2.0 * first(rows) - second(rows) / 4), _parts(4))
    apart = 2.0 * loss_gradient(likelihood, first, _parts(4)) - loss_gradient(likelihood, second, _parts(4)) / 4
    assert (mixed + apart).norm() <= 1e-5 * apart.norm()


def test_kept_logits_give_the_fused_likelihoods():
    likelihood, (batch,) = Likelihood(MODEL, Weights(MODEL)), _parts(6)
    seen = []
    fused, whole = likelihood.score(batch, seen.append), likelihood.score(batch, seen.append, logits=True)
    torch.testing.assert_close(whole.nll, fused.nll)
    torch.testing.assert_close(seen[1].entropy, seen[0].entropy, atol=1e-5, rtol=1e-5)
    assert torch.equal(seen[1].is_top1.bool(), seen[0].is_top1.bool())


def test_the_state_at_a_prompts_end_is_that_of_the_prompt_alone():
    likelihood, examples = Likelihood(MODEL, Weights(MODEL)), tokenize(tiny.rows("safe", 4), tiny.tokenizer())
    (batch,) = batches(examples, 4, 0)
    rows = likelihood.score(batch, hidden=("final",))
    found = rows.at_prompt_end(rows.hidden["final"][0])
    for place, example in enumerate(examples):
        prompt = [i for i, label in zip(example.input_ids, example.labels, strict=True) if label == -100]
        alone = MODEL.model(input_ids=torch.tensor([prompt])).last_hidden_state[0, -1]
        torch.testing.assert_close(found[place], alone, atol=1e-5, rtol=1e-4)


def test_the_reference_is_the_model_the_stage_started_from():
    world = World(random.Random(4), lora=True)
    data = world.data()
    before = world.step("user", data).score("user")
    world.weights.add(0.3 * world.step("user", data).gradient("user"))
    at = world.weights.snapshot()
    seen = []

    def loss(rows):
        seen.append((rows.reference.nll, rows.nll.detach()))
        return rows.per_token(rows.nll)

    step = world.step("user", data)
    step.gradient("user", loss=loss, reference=True)
    torch.testing.assert_close(torch.cat([nll for nll, _ in seen]), torch.cat([rows.nll for rows in before]))
    assert not torch.equal(seen[0][0], seen[0][1])
    assert all(torch.equal(a, b) for a, b in zip(at, world.weights.parameters, strict=True))


def test_scoring_leaves_random_states_as_they_were():
    world = World(random.Random(4), lora=True)
    step = world.step("user", world.data())
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    step.score("user")
    assert torch.equal(torch.rand(3), expected)


def test_a_redrawn_stream_goes_on_with_the_next_rows():
    world = World(random.Random(5), lora=False)
    data = world.data()
    step = world.step("user", data)
    first = [example.row for example in step.rows_of("harmful")]
    step.redraw("harmful")
    assert first == [row.position for row in data.harmful]
    assert [example.row for example in step.rows_of("harmful")] == [row.position for row in data.later[0]]
    assert [example.row for example in step.first("harmful", 1)] == first[:1]
    with pytest.raises(DefenseError, match="are needed; give more rows"):
        step.first("harmful", 10**6)


def test_random_numbers_of_a_step_depend_on_run_step_and_purpose():
    world = World(random.Random(5), lora=False)
    seeds = [
        world.step("user", world.data(number)).generator(what).initial_seed() for number in (0, 1) for what in "ab"
    ]
    again = [
        world.step("user", world.data(number)).generator(what).initial_seed() for number in (0, 1) for what in "ab"
    ]
    assert seeds == again
    assert len(set(seeds)) == 4
