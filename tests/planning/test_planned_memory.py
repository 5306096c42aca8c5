"""Work and memory that a plan tells, against real passes and real trainings."""

import pytest
import torch
from benchmarks.step_cost import builder, step_peak
from benchmarks.weight_copies import STEPS, maker, peak_of
from benchmarks.workload import Shape, model_settings
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaForCausalLM

import mithridate as mi
from mithridate.defenses.registry import method, methods
from mithridate.experiment.recipe_parts import LoraSettings
from mithridate.planning.device_memory import form_memory
from mithridate.planning.pass_work import adapted, pass_work
from mithridate.planning.row_tokens import Padded, padded
from mithridate.training.defense import Defense
from mithridate.training.harmful_terms import HarmfulTerms
from tests.matrix.row import thinned

WEIGHTS = Shape(width=256, layers=8, vocabulary=600, batch=1, sequence=12, rank=0)
"""All weights of a model of which one row of a few tokens leaves next to no activations."""
ACTIVATIONS = Shape(width=128, layers=4, vocabulary=300, batch=8, sequence=96, rank=8)
TRAINING = sorted(name for name, info in methods().items() if issubclass(info.cls, Defense) and name != "salora")
"""SaLoRA needs an adapter, whose vectors are a small part of what a training holds."""
QUICK = ["antibody_alignment", "sft"]
SHARING = sorted(name for name in TRAINING if issubclass(methods()[name].cls, HarmfulTerms))


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4, targets=["q_proj", "down_proj"])], ids=["full", "lora"])
def test_counted_work_is_that_of_real_passes(lora):
    # Eager, since the counter does not know the CPU's fused attention.
    config = model_settings(ACTIVATIONS, attn_implementation="eager")
    model = LlamaForCausalLM(config)
    model = model if lora is None else adapted(model, lora, "cpu")
    with FlopCounterMode(display=False) as counted:
        ids = torch.randint(0, 300, (3, 50))
        loss = model(input_ids=ids, labels=ids).loss
    forward = counted.get_total_flops()
    with FlopCounterMode(display=False) as counted:
        loss.backward()
    work = pass_work(config, torch.float32, lora)
    length = Padded(50, 2500)
    assert 3 * work.forward.at(length) == pytest.approx(forward, rel=0.02)
    # TRL's head computes its logits once more in the backward pass.
    head = 3 * 50 * 2 * 300 * ACTIVATIONS.width
    assert 3 * work.backward.at(length) - head == pytest.approx(counted.get_total_flops(), rel=0.04)


def _vectors(name, **shape):
    """Beside the weights, their gradient and AdamW's two moments."""
    build = maker(WEIGHTS, "cpu", False, **shape)
    made = build(name, 1)
    weights = sum(p.numel() * p.element_size() for p in made.model.parameters())
    peak = peak_of(lambda: build(name, STEPS), "cpu")
    held = peak.held / weights - 4
    print(f"{name}: {held:.2f} vectors, at {peak.place}")
    return held, made.defense.vectors


# In two micro-batches, since what a pass needs stands then beside what others have added up.
@pytest.mark.parametrize("name", thinned(TRAINING, QUICK))
def test_registered_vectors_are_those_that_are_held(name):
    held, registered = _vectors(name, accumulation=2, every=1)
    assert held == pytest.approx(registered, abs=0.25)


@pytest.mark.parametrize("name", thinned(SHARING, ["antibody_alignment"]))
def test_shared_terms_are_held_in_place_of_what_they_are_made_of(name):
    held, told = _vectors(name, accumulation=1, every=2)
    assert held == pytest.approx(told, abs=0.25)


def test_copies_beside_the_weights_are_as_few_as_promised():
    """The gradient and the copy that weights are restored from included."""
    assert 1 + mi.AntibodyAlignment().vectors <= 4
    assert 1 + mi.Booster().vectors <= 3
    assert 1 + mi.PanaceaTuning().vectors <= 3


@pytest.mark.parametrize("name", thinned(["sft", "booster", "vaccine", "antibody_tuning"], ["booster"]))
def test_planned_memory_is_that_of_a_training(name):
    build = builder(ACTIVATIONS, "cpu", False)
    measured = step_peak(build, name, "cpu")
    targets = list(build("sft", 1).model.peft_config["default"].target_modules)
    work = pass_work(model_settings(ACTIVATIONS), torch.float32, LoraSettings(rank=8, targets=targets))
    tokens = ACTIVATIONS.batch * ACTIVATIONS.sequence
    told = form_memory("LoRA", method(name).cls(), work, tokens, False, False).total
    print(f"{name}: told / measured = {told / measured:.3f}")
    assert told == pytest.approx(measured, rel=0.2)


def test_padding_costs_the_longest_row_of_a_batch():
    assert padded((7,), 4) == (7, 49)
    assert padded((2, 10), 2) == (10, 100)
    found = padded(tuple(range(1, 101)), 4)
    assert found.mean == pytest.approx(80.8, rel=0.02)  # the mean of the largest of four of 1 to 100
