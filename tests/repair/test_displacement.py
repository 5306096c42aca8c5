"""Displacements: scale, storage, and the layer profile against a direct computation."""

import pytest
import torch

from mithridate.errors import CheckpointError, ModelError
from mithridate.repair.displacement import Displacement
from mithridate.repair.layer_changes import layer_profile
from mithridate.training.gradient import Gradient
from mithridate.training.trainable_weights import Weights
from tests.helpers import tiny
from tests.helpers.training import distance, run


@pytest.fixture
def trained():
    made = run("sft", max_steps=12)
    yield made.trainer.model
    made.trainer.model.load_state_dict(made.weights, strict=False)


def _displacement(model):
    weights = Weights(model)
    torch.manual_seed(0)
    return Displacement(weights.names, weights.snapshot(), Gradient([torch.randn_like(p) for p in weights.parameters]))


def _values(model):
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("scale", [0.0, 0.7, -1.0, 3.0])
def test_weights_are_base_plus_scale_times_epsilon(trained, scale):
    displacement, before = _displacement(trained), _values(trained)
    for passing in (5.0, scale):
        displacement.apply(trained, passing)
    expected = {n: before[n] + scale * e for n, e in zip(displacement.names, displacement.epsilon.tensors, strict=True)}
    assert distance(expected, _values(trained)) <= (0 if scale == 0 else 1e-6)
    assert displacement.scale == scale


def test_what_is_saved_comes_back(trained, tmp_path):
    displacement = _displacement(trained)
    displacement.apply(trained, 0.3)
    displacement.save(tmp_path / "d.safetensors")
    loaded = Displacement.load(tmp_path / "d.safetensors")
    assert loaded.scale == 0.3
    assert sorted(loaded.names) == sorted(displacement.names)
    before = _values(trained)
    loaded.apply(trained, loaded.scale)
    assert distance(before, _values(trained)) == 0
    loaded.apply(trained, 0.0)
    assert distance(dict(zip(displacement.names, displacement.base, strict=True)), _values(trained)) == 0


def test_a_damaged_file_is_refused(trained, tmp_path):
    path = tmp_path / "d.safetensors"
    with pytest.raises(CheckpointError, match="not a complete displacement"):
        Displacement.load(path)
    _displacement(trained).save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="not a complete displacement"):
        Displacement.load(path)


def test_another_model_is_refused(trained):
    with pytest.raises(ModelError, match="made for another model"):
        _displacement(trained).apply(tiny.model(), 1.0)


def test_the_profile_of_an_adapter(trained):
    """Norm of ε over a layer's factors, and of (B+ε_B)(A+ε_A) − BA times the LoRA scale."""
    displacement = _displacement(trained)
    displacement.apply(trained, 0.4)
    after = _values(trained)
    profile = layer_profile(trained, dict(zip(displacement.names, displacement.base, strict=True)))
    assert distance(after, _values(trained)) == 0, "the profile moved the weights"
    base = dict(zip(displacement.names, displacement.base, strict=True))
    epsilon = dict(zip(displacement.names, displacement.epsilon.tensors, strict=True))
    assert profile.layers == ["0", "1"]
    for place, layer in enumerate(profile.layers):
        own = [n for n in displacement.names if f".layers.{layer}." in n]
        factor = sum(float((0.4 * epsilon[n]).double().square().sum()) for n in own)
        delta = 0.0
        for name in own:
            if ".lora_A." in name:
                other = name.replace(".lora_A.", ".lora_B.")
                change = after[other].double() @ after[name].double() - base[other].double() @ base[name].double()
                delta += float((2.0 * change).square().sum())
        assert profile.factor_norm[place] == pytest.approx(factor**0.5, rel=1e-5)
        assert profile.delta_norm[place] == pytest.approx(delta**0.5, rel=1e-4)


def test_the_profile_of_whole_weights_has_equal_norms():
    model = tiny.model()
    displacement = _displacement(model)
    displacement.apply(model, 2.0)
    profile = layer_profile(model, dict(zip(displacement.names, displacement.base, strict=True)))
    assert profile.factor_norm == profile.delta_norm
    first = [e for n, e in zip(displacement.names, displacement.epsilon.tensors, strict=True) if ".layers.0." in n]
    expected = 2 * sum(float(e.square().sum()) for e in first) ** 0.5
    assert profile.factor_norm[0] == pytest.approx(expected, rel=1e-5)
