"""What TRL's users have by default, or commonly set: activation checkpointing, dropout, prompt tuning."""

import pytest
import torch
from peft import PromptTuningConfig

from mithridate.defenses.registry import methods
from tests.helpers.training import distance, run, trainer, training_methods
from tests.matrix.rows import ROWS

STEPS = 3
CHECKPOINTED = {"gradient_checkpointing": True, "max_steps": STEPS}


@pytest.mark.parametrize("name", training_methods())
def test_recomputed_activations_change_no_bit(name):
    kept, recomputed = (
        run(name, ROWS[name].default, dropout=0.3, **options) for options in ({"max_steps": STEPS}, CHECKPOINTED)
    )
    assert distance(kept.weights, recomputed.weights) == 0


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("name", training_methods())
def test_switched_off_equals_plain_sft_with_dropout(name, checkpointing):
    """Whatever passes a method takes beside it, the rows that are trained on see the masks that SFT draws."""
    shape = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "max_steps": STEPS, "dropout": 0.3}
    shape["gradient_checkpointing"] = checkpointing
    plain, off = run("sft", **shape), run(name, methods()[name].off, **shape)
    assert distance(plain.weights, off.weights) == 0


def test_dropout_acts_at_all():
    assert distance(run("sft", max_steps=STEPS).weights, run("sft", max_steps=STEPS, dropout=0.3).weights) > 1e-3


@pytest.mark.parametrize("name", [name for name in training_methods() if name not in ("salora", "lox_alignment")])
def test_prompt_tuning_trains(name, tmp_path):
    prompts = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    made = trainer(methods()[name].cls(**ROWS[name].default), tmp_path, extra={"peft_config": prompts}, max_steps=2)
    before = {n: p.detach().clone() for n, p in made.model.named_parameters() if p.requires_grad}
    made.train()
    after = {n: p for n, p in made.model.named_parameters() if p.requires_grad}
    assert len(after) == 1
    assert distance(before, after) > 0
    assert all(torch.isfinite(p).all() for p in after.values())
