"""Harmful terms that k optimizer steps share: what is kept, for how long, at which price, and through a crash."""

import random

import pytest
import torch

import mithridate as mi
from mithridate.defenses.registry import methods
from mithridate.errors import DefenseError, SettingError
from mithridate.settings import Passes
from mithridate.training.given_streams import TRAINED
from mithridate.training.harmful_terms import HarmfulTerms
from tests.helpers.counting import Counted
from tests.helpers.training import distance, finished, folder_of, run, trainer
from tests.matrix.row import rows_passed, thinned
from tests.matrix.rows import ROWS
from tests.matrix.worlds import World

SHARING = [name for name, info in methods().items() if issubclass(info.cls, HarmfulTerms)]
SHAPE = {"max_steps": 7, "save_strategy": "steps", "save_steps": 1, "dropout": 0.1, "rows": 24}


def _settings(name, every):
    return ROWS[name].strained | {"every": every}


def test_every_training_method_that_takes_a_gradient_on_harmful_rows_shares_it_or_says_why_not():
    harmful = {
        name
        for name, info in methods().items()
        if "harmful" in info.streams and {"alignment", "finetuning"} & set(info.stages)
    }
    assert harmful == {*SHARING, "joint_alignment", "sbr", "t_vaccine"}


@pytest.mark.parametrize("name", ["joint_alignment", "sbr", "t_vaccine", "vaccine", "safegrad"])
def test_where_a_kept_term_would_be_wrong_it_is_refused_with_the_reason(name):
    cls = methods()[name].cls
    with pytest.raises(SettingError, match="every cannot be set") as error:
        cls(**{"every": 2})
    assert cls.never_kept in str(error.value)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "often"])
def test_every_is_a_whole_number_of_steps(wrong):
    with pytest.raises(SettingError, match="every"):
        mi.Booster(every=wrong)


def test_one_is_the_default_and_keeps_nothing(tmp_path):
    made = trainer(mi.Booster(), tmp_path, max_steps=2)
    made.train()
    assert made.memory == {}


@pytest.mark.parametrize("name", SHARING)
def test_a_step_in_between_adds_the_kept_terms_to_a_fresh_gradient(name):
    """At weights that moved and on other rows of both streams."""
    cls, settings = methods()[name].cls, _settings(name, 2)
    # Its λ_t is found with the fresh gradient, so that only a constant one leaves the same extra term.
    settings |= {"form": "constant"} if name == "antibody_alignment" else {}
    world, memory, extra = World(random.Random(name), lora=False), {}, []
    stage = TRAINED[methods()[name].stages[0]]
    for number in range(2):
        data = world.data(number, 2)
        whole = cls(**settings).gradient(world.step(stage, data, memory))
        off = {"inner_steps": 0} if name == "tar" else None
        alone = cls(**settings | off) if off else mi.SFT()
        fresh = alone.gradient(world.step(stage, data, {}))
        # Deep alignment's safe rows count for 1 − α.
        extra.append(whole - (0.8 * fresh if name == "deep_alignment" else fresh))
        world.weights.add(-0.1 * whole)
    assert extra[0].norm() > 1e-6
    for first, second in zip(extra[0].tensors, extra[1].tensors, strict=True):
        torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", SHARING)
def test_passes_are_those_of_the_steps_that_compute(name, tmp_path):
    settings, steps = ROWS[name].default | {"every": 3}, 7
    made = trainer(methods()[name].cls(**settings), tmp_path, max_steps=steps)
    with Counted(made.model) as counted:
        made.train()
    found = (counted.forward, counted.backward)
    assert found == rows_passed(made.defense, ROWS[name], settings, steps, 4)
    full, steady = made.defense.full_passes, made.defense.steady
    assert found == tuple(4 * (3 * whole + 4 * kept) for whole, kept in zip(full, steady, strict=True))
    assert [log["harmful_terms_computed"] for log in finished(made).logs] == [1, 0, 0, 1, 0, 0, 1]


def test_registered_passes_become_averages():
    assert mi.Booster(every=4).passes == Passes(1.5, 1.5)
    assert mi.AntibodyAlignment(every=2).passes == Passes(2.5, 2.5)
    assert mi.RepNoise(every=2).passes == Passes(2, 1.5)
    assert mi.TAR(tamper_every=4, every=10).passes == Passes(2 + 80 / 10, 1 + 80 / 10)


@pytest.mark.parametrize("every", [1, 4])
def test_every_of_an_older_tar_recipe_does_not_change_its_meaning(every):
    """It counted the adversary's steps."""
    with pytest.raises(SettingError, match="every needs tamper_every beside it"):
        mi.TAR(every=every)
    assert mi.TAR(tamper_every=every).passes == Passes(66 + 64 // every, 65 + 64 // every)
    assert mi.TAR(**mi.TAR(tamper_every=2, every=every).model_dump()).every == every


@pytest.mark.parametrize("step", thinned([1, 2, 3, 4], [3]))
@pytest.mark.parametrize("name", SHARING)
def test_interrupted_between_two_computations_the_end_has_the_same_bits(name, step, tmp_path):
    straight = run(name, _settings(name, 3), **SHAPE)
    resumed = trainer(methods()[name].cls(**_settings(name, 3)), tmp_path, **SHAPE)
    resumed.train(resume_from_checkpoint=str(folder_of(straight.trainer) / f"checkpoint-{step}"))
    assert distance(straight.weights, finished(resumed).weights) == 0
    assert straight.logs[-1] == finished(resumed).logs[-1]


def test_a_checkpoint_without_kept_terms_computes_them_at_once(tmp_path):
    trainer(mi.Booster(), tmp_path / "first", **SHAPE).train()
    made = trainer(mi.Booster(every=4), tmp_path / "second", **SHAPE)
    made.train(resume_from_checkpoint=str(tmp_path / "first" / "checkpoint-2"))
    computed = {log["step"]: log["harmful_terms_computed"] for log in finished(made).logs if log["step"] > 2}
    assert computed == {3: 1, 4: 0, 5: 1, 6: 0, 7: 0}


def test_one_object_in_two_trainers_and_anew_after_a_failure(tmp_path, monkeypatch):
    defense, shape = mi.AntibodyAlignment(every=3), {"max_steps": 5}
    expected = run("antibody_alignment", {"every": 3}, **shape).weights
    made = trainer(defense, tmp_path, **shape)
    before = {n: p.detach().clone() for n, p in made.model.named_parameters()}
    original, calls = mi.AntibodyAlignment.gradient, []

    def failing(self, step):
        calls.append(step)
        if len(calls) == 3:
            raise ZeroDivisionError
        return original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(mi.AntibodyAlignment, "gradient", failing)
        with pytest.raises(ZeroDivisionError):
            made.train()
    made.model.load_state_dict(before, strict=False)
    made.optimizer = made.lr_scheduler = None
    made.train()
    assert distance(expected, finished(made).weights) == 0


class _Bare(HarmfulTerms):
    """Returns its kept term itself, which the trainer clips in place."""

    info = methods()["booster"]

    def gradient(self, step):
        step.gradient("safe")
        term = self.shared(step, lambda step: {"harm": step.gradient("harmful")})["harm"]
        step.log(kept_norm=term.norm())
        return term


def test_clipping_leaves_kept_terms_alone(tmp_path):
    made = trainer(_Bare(every=4), tmp_path, max_steps=4, max_grad_norm=1e-3)
    made.train()
    norms = [log["kept_norm"] for log in finished(made).logs]
    assert norms[0] > 1e-2
    assert norms == [norms[0]] * 4


class _Frozen(HarmfulTerms):
    """Keeps a gradient that leaves some weights alone."""

    info = methods()["booster"]

    def gradient(self, step):
        with step.training_only([0]):
            return self.shared(step, lambda step: {"part": step.gradient("safe")})["part"]


def test_a_term_that_freezes_weights_is_not_kept(tmp_path):
    with pytest.raises(DefenseError, match="set every to 1"):
        trainer(_Frozen(every=2), tmp_path, max_steps=1).train()


def test_the_last_displacement_of_panacea_is_that_of_the_last_computation(tmp_path):
    made = trainer(mi.PanaceaTuning(radius=0.5, every=8), tmp_path, max_steps=3)
    made.train()
    assert made.finished["displacement_norm"] == pytest.approx(0.5, rel=1e-3)


def test_different_numbers_of_steps_end_differently(tmp_path):
    ends = [run("booster", {"every": every}, max_steps=4).weights for every in (1, 2, 4)]
    assert distance(ends[0], ends[1]) > 1e-6
    assert distance(ends[1], ends[2]) > 1e-6
