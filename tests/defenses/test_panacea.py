"""Panacea's two forms and their random control."""

import pytest
import torch

from mithridate.defenses.panacea import Panacea
from mithridate.defenses.random_perturbation import RandomPerturbation
from mithridate.models.batches import batches
from mithridate.models.tokenization import tokenize
from mithridate.training.scoring import Likelihood
from mithridate.training.trainable_weights import Weights
from tests.helpers import tiny
from tests.helpers.training import distance, run

HARMFUL = tiny.rows("harmful", 10)


@pytest.fixture
def trained():
    made = run("sft", max_steps=12)
    yield made.trainer.model
    made.trainer.model.load_state_dict(made.weights, strict=False)


def _adapter(model):
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def _length(first, second):
    return sum(float((first[n] - second[n]).double().square().sum()) for n in first) ** 0.5


@torch.no_grad()
def _harmful_loss(model):
    parts = batches(tokenize(HARMFUL, tiny.tokenizer()), 10, 0)
    return float(sum(Likelihood(model, Weights(model)).score(b).nll.sum() for b in parts))


@pytest.mark.parametrize("radius", [0.01, 0.3, 2.0])
def test_the_step_has_its_length_and_goes_up_the_harmful_loss(trained, radius):
    before, loss = _adapter(trained), _harmful_loss(trained)
    repaired = Panacea(radius=radius).repair(trained, tiny.tokenizer(), harmful=HARMFUL)
    assert _length(before, _adapter(trained)) == pytest.approx(radius, rel=1e-4)
    assert repaired.distance == pytest.approx(_length(before, _adapter(trained)), rel=1e-7)
    assert repaired.activity["intended_distance"] == radius
    if radius <= 0.3:
        assert _harmful_loss(trained) > loss


def test_batch_size_does_not_change_the_step(trained):
    before, ends = _adapter(trained), []
    for size in (1, 3, 99):
        trained.load_state_dict(before, strict=False)
        Panacea(radius=1.0, batch_size=size).repair(trained, tiny.tokenizer(), harmful=HARMFUL)
        ends.append(_adapter(trained))
    assert distance(ends[0], ends[2]) <= 1e-5
    assert distance(ends[1], ends[2]) <= 1e-5


def test_the_scale_can_be_changed_afterwards(trained):
    before = _adapter(trained)
    displacement = Panacea(radius=1.0).repair(trained, tiny.tokenizer(), harmful=HARMFUL).displacement
    assert displacement.scale == 1.0
    displacement.apply(trained, 0.0)
    assert distance(before, _adapter(trained)) == 0
    displacement.apply(trained, 1.5)
    assert _length(before, _adapter(trained)) == pytest.approx(1.5, rel=1e-5)


def test_the_full_form_keeps_base_and_epsilon():
    made = run("panacea_tuning", {"radius": 0.5}, max_steps=6).trainer
    displacement = made.displacement
    end = _adapter(made.model)
    assert displacement.epsilon.norm() == pytest.approx(0.5, rel=1e-5)
    for name, base, epsilon in zip(displacement.names, displacement.base, displacement.epsilon.tensors, strict=True):
        assert torch.equal(base + epsilon, end[name])


def test_without_strength_training_is_plain_sft_until_the_end():
    plain = run("sft", max_steps=6).weights
    displacement = run("panacea_tuning", {"strength": 0.0}, max_steps=6).trainer.displacement
    assert distance(plain, dict(zip(displacement.names, displacement.base, strict=True))) == 0


def test_strength_auto_stays_within_the_budget(trained):
    before = _adapter(trained)
    repaired = Panacea(strength="auto", budget=0.1).repair(  # type: ignore[call-arg]
        trained, tiny.tokenizer(), harmful=HARMFUL, user=tiny.rows("user", 12)
    )
    curve = repaired.dose_curve
    within = [point.dose for point in curve.points if point.rise <= 0.1]
    assert curve.chosen == max(within)
    assert curve.chosen < max(point.dose for point in curve.points)
    assert _length(before, _adapter(trained)) == pytest.approx(curve.chosen, rel=1e-4)


@pytest.mark.parametrize("radius", [0.1, 3.0])
def test_random_noise_is_matched_in_norm(trained, radius):
    before = _adapter(trained)
    repaired = RandomPerturbation(radius=radius).repair(trained, tiny.tokenizer())
    assert _length(before, _adapter(trained)) == pytest.approx(radius, rel=1e-4)
    assert repaired.distance == pytest.approx(radius, rel=1e-5)


def test_random_noise_by_standard_deviation_is_gaussian_and_seeded():
    model = tiny.model(hidden=32)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    displacement = RandomPerturbation(std=0.02, seed=4).repair(model, tiny.tokenizer()).displacement
    noise = torch.cat([(p.detach() - before[n]).reshape(-1) for n, p in model.named_parameters()])
    assert float(noise.std()) == pytest.approx(0.02, rel=0.05)
    assert float(noise.mean()) == pytest.approx(0.0, abs=1e-3)
    kurtosis = float((noise / noise.std()).pow(4).mean())
    assert kurtosis == pytest.approx(3.0, abs=0.3)
    ends = {}
    for seed in (4, 5):
        displacement.apply(model, 0.0)
        RandomPerturbation(std=0.02, seed=seed).repair(model, tiny.tokenizer())
        ends[seed] = torch.cat([(p.detach() - before[n]).reshape(-1) for n, p in model.named_parameters()])
    assert torch.equal(ends[4], noise)
    assert not torch.equal(ends[5], noise)


@pytest.mark.parametrize("given", [{}, {"std": 0.1, "radius": 1.0}])
def test_exactly_one_size_of_noise_is_given(given):
    with pytest.raises(ValueError, match="exactly one of std"):
        RandomPerturbation(**given)
