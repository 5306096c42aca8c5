"""Every object used twice: a defense in two trainers, a trainer that trains twice, or anew after it failed."""

import inspect

import pytest
import torch
from safetensors.torch import load_file

from mithridate.defenses.registry import methods
from mithridate.errors import UsageError
from tests.helpers.training import distance, finished, run, trainer, training_methods
from tests.matrix.row import thinned
from tests.matrix.rows import ROWS

SHAPE = {"max_steps": 4}
FINISHING = [name for name in training_methods() if methods()[name].cls(**ROWS[name].default).finishes]


REMEMBERING = [name for name in training_methods() if "step.memory" in inspect.getsource(methods()[name].cls)]
LASTING = {*REMEMBERING, *FINISHING, "repnoise", "tar"}
"""Those that remember something or act at the end, and two whose harmful terms take several passes."""


@pytest.mark.parametrize("name", thinned(training_methods(), LASTING))
def test_a_defense_is_as_new_in_its_second_trainer(name, tmp_path):
    defense = methods()[name].cls(**ROWS[name].strained)
    settings = defense.model_dump()
    for place in ("first", "second"):
        made = trainer(defense, tmp_path / place, **SHAPE)
        made.train()
        assert distance(run(name, ROWS[name].strained, **SHAPE).weights, finished(made).weights) == 0, place
    assert defense.model_dump() == settings


@pytest.mark.parametrize("name", training_methods())
def test_settings_cannot_be_changed_under_a_trainer(name):
    defense = methods()[name].cls(**ROWS[name].default)
    for setting in type(defense).model_fields:
        with pytest.raises(ValueError, match="frozen"):
            setattr(defense, setting, getattr(defense, setting))


@pytest.mark.parametrize("name", thinned(training_methods(), REMEMBERING))
def test_a_training_begun_anew_after_a_failure_is_as_new(name, tmp_path, monkeypatch):
    """In the middle of a step of two micro-batches: nothing of it may enter the next training."""
    cls, shape = methods()[name].cls, SHAPE | {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    original, calls = cls.gradient, []

    def failing(self, step):
        calls.append(step)
        if len(calls) == 3:
            raise ZeroDivisionError
        return original(self, step)

    made = trainer(cls(**ROWS[name].strained), tmp_path, **shape)
    before = {n: p.detach().clone() for n, p in made.model.named_parameters()}
    with monkeypatch.context() as patch:
        patch.setattr(cls, "gradient", failing)
        with pytest.raises(ZeroDivisionError):
            made.train()
    made.model.load_state_dict(before, strict=False)
    made.optimizer = made.lr_scheduler = None
    made.train()
    assert distance(run(name, ROWS[name].strained, **shape).weights, finished(made).weights) == 0


@pytest.mark.parametrize("name", FINISHING)
def test_a_last_act_is_not_done_twice(name, tmp_path):
    made = trainer(methods()[name].cls(**ROWS[name].default), tmp_path, **SHAPE)
    made.train()
    after = finished(made).weights
    with pytest.raises(UsageError, match="make a new DefendedTrainer"):
        made.train()
    assert distance(after, finished(made).weights) == 0


@pytest.mark.parametrize("name", FINISHING)
def test_a_last_act_that_fails_halfway_leaves_the_trained_weights(name, tmp_path, monkeypatch):
    cls = methods()[name].cls
    original = cls.finish

    def failing(self, weights, memory):
        original(self, weights, memory)
        raise KeyboardInterrupt

    made = trainer(cls(**ROWS[name].default), tmp_path, save_strategy="steps", save_steps=4, **SHAPE)
    monkeypatch.setattr("mithridate.training.trainer.save_finished", lambda *given: None)
    monkeypatch.setattr(cls, "finish", failing)
    with pytest.raises(KeyboardInterrupt):
        made.train()
    trained = load_file(tmp_path / "checkpoint-4" / "adapter_model.safetensors")
    left = {n.replace(".default", ""): w for n, w in finished(made).weights.items()}
    assert distance(trained, left) == 0
    assert made.finished == {}


@pytest.mark.parametrize("name", FINISHING)
def test_the_last_checkpoint_holds_what_is_served_beside_what_is_trained_on(name, tmp_path):
    made = trainer(methods()[name].cls(**ROWS[name].default), tmp_path, save_strategy="steps", save_steps=4, **SHAPE)
    made.train()
    folder = tmp_path / "checkpoint-4"
    going_on, served = (load_file(path / "adapter_model.safetensors") for path in (folder, folder / "finished"))
    assert distance(going_on, served) > 1e-6
    end = {name.replace(".default", ""): weight for name, weight in finished(made).weights.items()}
    assert distance(served, end) == 0
    assert (folder / "finished" / "tokenizer.json").is_file()


def test_a_checkpoint_of_a_method_without_a_last_act_is_servable_as_it_is(tmp_path):
    trainer(methods()["sft"].cls(), tmp_path, save_strategy="steps", save_steps=4, **SHAPE).train()
    assert not (tmp_path / "checkpoint-4" / "finished").exists()


@pytest.mark.parametrize("name", FINISHING)
def test_what_the_last_act_did_is_reported_as_it_is_stored(name, tmp_path):
    made = trainer(methods()[name].cls(**ROWS[name].default), tmp_path, save_strategy="steps", save_steps=4, **SHAPE)
    made.train()
    before = load_file(tmp_path / "checkpoint-4" / "adapter_model.safetensors")
    pairs = [(before[n.replace(".default", "")], w) for n, w in finished(made).weights.items()]
    assert made.finished["weights_moved"] == sum(int((a != b).sum()) for a, b in pairs) > 0
    square = sum(float((a.double() - b.double()).square().sum()) for a, b in pairs)
    assert made.finished["moved_distance"] == pytest.approx(square**0.5, rel=1e-6)
    assert all(torch.isfinite(w).all() for _, w in pairs)
