"""Outputs of parts: captured, differentiated by, perturbed."""

import random

import pytest
import torch

from mithridate.errors import DefenseError, ModelError
from mithridate.models.activations import captured, shifted
from mithridate.models.batches import batches
from mithridate.models.decoder import decoder_of
from mithridate.models.tokenization import tokenize
from mithridate.training.perturbation import Perturbation
from mithridate.training.scoring import Likelihood
from mithridate.training.trainable import Weights
from tests.helpers import tiny
from tests.helpers.gradients import activation_gradient
from tests.matrix.worlds import World

MODEL = tiny.model()


def _likelihood():
    return Likelihood(MODEL, Weights(MODEL))


def _parts(size):
    return list(batches(tokenize(tiny.rows("safe", 6), tiny.tokenizer()), size, 0))


def test_norms_are_over_all_micro_batches():
    whole, cut = (activation_gradient(_likelihood(), "attention", _parts(size)) for size in (6, 2))
    assert whole.norms() == pytest.approx(cut.norms(), rel=1e-4)
    assert whole.norm() == pytest.approx(sum(norm**2 for norm in whole.norms()) ** 0.5)
    assert (3.0 * whole.unit()).norm() == pytest.approx(3, rel=1e-6)


def test_the_gradient_is_that_of_the_mean_token_loss():
    """Checked against finite differences along itself."""
    (batch,) = _parts(6)
    likelihood = _likelihood()
    felt = activation_gradient(likelihood, "mlp", [batch])
    direction, modules = felt.unit(), likelihood.decoder.part("mlp")

    @torch.no_grad()
    def loss(step):
        with shifted(modules, (step * direction).parts[0]):
            rows = likelihood.score(batch)
        return float(rows.nll.double().sum() / rows.tokens.sum())

    assert (loss(0.01) - loss(-0.01)) / 0.02 == pytest.approx(felt.norm(), rel=1e-2)


def test_padding_gets_no_gradient():
    (batch,) = _parts(6)
    felt = activation_gradient(_likelihood(), "attention", [batch])
    padding = batch["attention_mask"] == 0
    assert padding.any()
    assert all((part[padding] == 0).all() for part in felt.parts[0])


def test_chosen_modules_get_the_same_gradient_as_among_all():
    likelihood = _likelihood()
    every, last = (activation_gradient(likelihood, "attention", _parts(6), layers=layers) for layers in (None, [1]))
    assert (every.layers, last.layers) == ([0, 1], [1])
    torch.testing.assert_close(last.parts[0][0], every.parts[0][1])
    assert last.norms() == pytest.approx(every.norms()[1:])


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_vector_without_direction_is_an_error(value):
    with pytest.raises(DefenseError, match="no direction"):
        Perturbation([[torch.full((1, 2, 3), value)]], layers=[0]).unit()


def test_hooks_are_gone_afterwards_even_after_an_exception():
    likelihood, (batch,) = _likelihood(), _parts(6)
    modules = likelihood.decoder.part("block")
    before = likelihood.score(batch).nll
    with pytest.raises(ZeroDivisionError), shifted(modules, [torch.ones(())] * 2), captured(modules):
        raise ZeroDivisionError
    assert not any(module._forward_hooks for module in modules)
    assert torch.equal(likelihood.score(batch).nll, before)


def test_a_module_that_does_not_run_is_an_error():
    with (
        pytest.raises(DefenseError, match="no activation came out of Linear number 0"),
        captured([torch.nn.Linear(1, 1)]),
    ):
        pass


def test_a_perturbation_belongs_to_its_stream():
    world = World(random.Random(3), lora=False)
    data = world.data()
    step = world.step("safe", data)
    noise = step.activation_gradient("safe", "attention")
    noise.parts.append(noise.parts[0])
    with pytest.raises(DefenseError, match="the stream it was taken on"), step.perturbed("attention", noise):
        step.gradient("safe")


def test_a_decoder_without_a_norm_is_named():
    model = tiny.model()
    model.model.norm = torch.nn.Identity()
    with pytest.raises(ModelError, match="no norm behind its last block"):
        decoder_of(model).part("final")
