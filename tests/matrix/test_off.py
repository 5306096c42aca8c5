"""Switched off, every method is plain SFT; and our plain SFT is TRL's."""

import pytest
import torch

from mithridate.defenses.registry import methods
from tests.helpers import tiny
from tests.helpers.origins import LORA_SCALE, everything, restored
from tests.helpers.slow_llama import merged, plain_names
from tests.helpers.training import distance, repair_methods, run, training_methods
from tests.matrix.rows import ROWS

STEPS = 12
AUTOCAST = {"bf16": True}
CLIPPED = {"max_grad_norm": 0.05}


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["lora", "full"])
@pytest.mark.parametrize("name", training_methods())
def test_switched_off_equals_plain_sft(name, full):
    plain = run("sft", full=full, max_steps=STEPS)
    off = run(name, methods()[name].off, full=full, max_steps=STEPS)
    assert distance(plain.weights, off.weights) == 0


@pytest.mark.parametrize("name", repair_methods())
def test_switched_off_a_repair_changes_no_bit(name):
    model = run("sft", max_steps=STEPS).trainer.model
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    repaired = methods()[name].cls(**methods()[name].off).repair(model, tiny.tokenizer(), **everything())
    assert distance(before, dict(model.named_parameters())) == 0
    assert (repaired.changed, repaired.distance) == (0, 0)


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
@pytest.mark.parametrize("changes", [{}, CLIPPED], ids=["plain", "clipped"])
def test_our_sft_equals_trl(changes, full):
    ours, theirs = (run(name, full=full, max_steps=STEPS, **changes) for name in ("sft", None))
    assert distance(ours.weights, theirs.weights) <= 1e-5
    for mine, other in zip(ours.logs, theirs.logs, strict=True):
        assert mine["num_tokens"] == other["num_tokens"]
        for figure in ("loss", "entropy", "mean_token_accuracy", "grad_norm"):
            assert mine[figure] == pytest.approx(other[figure], abs=1e-5), figure
    if changes:
        assert all(log["grad_norm"] > CLIPPED["max_grad_norm"] for log in theirs.logs), "clipping never acted"


def test_our_sft_equals_trl_under_accumulation():
    shape = {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 2}
    ours, theirs = (run(name, max_steps=STEPS, rows=40, **shape) for name in ("sft", None))
    assert distance(ours.weights, theirs.weights) <= 2e-5
    for mine, other in zip(ours.logs, theirs.logs, strict=True):
        assert mine["num_tokens"] == other["num_tokens"]
        assert mine["loss"] == pytest.approx(other["loss"], abs=2e-5)


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["lora", "full"])
def test_our_sft_equals_trl_under_bf16_autocast(full):
    """Both round to bf16 (2⁻⁸ relative), but we divide by the token count after the backward pass, TRL before it.

    With plain SGD and gradients clipped to norm 1, four steps of 0.1 move no weight by more than 0.4, and each of the
    two roundings may turn a share of 2⁻⁸ of that; AdamW would turn any rounding of a small gradient into a whole step.
    """
    settings = {"max_steps": 4, "learning_rate": 0.1, "optim": "sgd", "full": full}
    ours, theirs = (run(name, **settings, **AUTOCAST) for name in ("sft", None))
    exact = run("sft", **settings)
    assert distance(ours.weights, theirs.weights) <= 2 * 0.4 * 2**-8
    assert distance(ours.weights, exact.weights) > 0, "autocast never acted"
    for mine, other in zip(ours.logs, theirs.logs, strict=True):
        assert mine["num_tokens"] == other["num_tokens"]
        assert mine["loss"] == pytest.approx(other["loss"], rel=2**-8)
    assert all(weight.dtype is torch.float32 for weight in ours.weights.values())


@pytest.mark.parametrize("name", [name for name in training_methods() if name != "sft"])
def test_at_default_strength_the_effect_is_visible(name):
    plain, defended = run("sft", max_steps=STEPS), run(name, ROWS[name].default, max_steps=STEPS)
    if ROWS[name].as_sft:
        assert distance(plain.weights, defended.weights) == 0
    else:
        assert distance(plain.weights, defended.weights) > 1e-4
    for log in defended.logs:
        for figure in ROWS[name].active:
            assert log[figure] > 0, figure


@pytest.mark.parametrize("name", repair_methods())
def test_at_default_strength_a_repair_is_visible(name):
    model = run("sft", max_steps=STEPS).trainer.model
    with restored(model):
        before = plain_names(model.state_dict())
        repaired = methods()[name].cls(**ROWS[name].default).repair(model, tiny.tokenizer(), **everything())
        after = plain_names(model.state_dict())
        if repaired.merged:
            before, after = (merged(state, LORA_SCALE) for state in (before, after))
        assert distance(before, after) > 1e-4
        moved = sum(float((after[n] - w).square().sum()) for n, w in before.items()) ** 0.5
        assert repaired.distance == pytest.approx(moved, rel=1e-4)
        assert all(repaired.activity[figure] > 0 for figure in ROWS[name].active)
