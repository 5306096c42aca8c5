"""What TRL's users have by default, or commonly set: activation checkpointing and dropout."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from mithridate.defenses.registry import methods
from tests.helpers.training import distance, finished, run, trainer, training_methods
from tests.matrix.row import thinned
from tests.matrix.rows import ROWS

STEPS = 3
HOOKED = [
    *("antibody_alignment", "antibody_tuning", "joint_alignment", "ldifs", "repnoise"),
    *("safegrad", "sbr", "sft", "t_vaccine", "vaccine"),
]
"""Methods that read or change activations, or score rows a second time; the others are slow for their number."""
CHECKPOINTED = {"gradient_checkpointing": True, "max_steps": STEPS}


@pytest.mark.parametrize("name", thinned(training_methods(), HOOKED))
def test_recomputed_activations_change_no_bit(name):
    kept, recomputed = (
        run(name, ROWS[name].default, dropout=0.3, **options) for options in ({"max_steps": STEPS}, CHECKPOINTED)
    )
    assert distance(kept.weights, recomputed.weights) == 0


@pytest.mark.parametrize(
    "checkpointing", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["kept", "recomputed"]
)
@pytest.mark.parametrize("name", training_methods())
def test_switched_off_equals_plain_sft_with_dropout(name, checkpointing):
    """Whatever passes a method takes beside it, the rows that are trained on see the masks that SFT draws."""
    shape = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "max_steps": STEPS, "dropout": 0.3}
    shape["gradient_checkpointing"] = checkpointing
    plain, off = run("sft", **shape), run(name, methods()[name].off, **shape)
    assert distance(plain.weights, off.weights) == 0


def test_dropout_acts_at_all():
    assert distance(run("sft", max_steps=STEPS).weights, run("sft", max_steps=STEPS, dropout=0.3).weights) > 1e-3


DRIFTS = {"ldifs": "drift", "sbr": "extra_gradient_norm", "safegrad": "alignment_gradient_norm"}


@pytest.mark.parametrize("name", DRIFTS)
def test_a_model_that_has_not_moved_has_not_drifted_with_dropout_in_the_model_itself(name, tmp_path):
    """GPT-2 drops activations everywhere; the reference must be scored under the same masks."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=64, resid_pdrop=0.4))
    made = trainer(methods()[name].cls(), tmp_path, extra={"model": model}, full=True, max_steps=2)
    made.train()
    first, second = (log[DRIFTS[name]] for log in finished(made).logs)
    assert first == 0
    assert second > 0
