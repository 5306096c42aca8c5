"""A copy of a model runs its own weights, whatever was done to the original before."""

import copy

import pytest
import torch

from mithridate.defenses.panacea import Panacea
from mithridate.defenses.sft import SFT
from mithridate.models.fused_head import fused_head
from tests.helpers import tiny
from tests.helpers.training import run, trainer

IDS = torch.tensor([[7, 8, 9, 10, 11]])
HARMFUL = tiny.rows("harmful", 8)


def _logits(model):
    return model.eval()(input_ids=IDS).logits


def _zeroed(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_after_training(full, bf16, tmp_path):
    """Accelerate's mixed precision hangs on the model as well."""
    made = trainer(SFT(), tmp_path, full=full, bf16=bf16, max_steps=2)
    made.train()
    expected = _logits(made.model)
    copied = copy.deepcopy(made.model)
    _zeroed(made.model)
    torch.testing.assert_close(_logits(copied), expected, atol=0, rtol=0)


def test_after_a_training_that_failed(tmp_path, monkeypatch):
    made = trainer(SFT(), tmp_path, full=True, bf16=True, max_steps=2)
    monkeypatch.setattr(SFT, "gradient", lambda self, step: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made.train()
    assert "forward" not in made.model.__dict__
    assert "_original_forward" not in made.model.__dict__


def test_after_the_trainer_was_made_and_after_its_evaluation(tmp_path):
    made = trainer(SFT(), tmp_path, extra={"eval_dataset": tiny.rows("user", 8)}, max_steps=2)
    assert "forward" not in made.model.get_base_model().__dict__
    assert made.evaluate()["eval_loss"] > 0
    assert "forward" not in made.model.get_base_model().__dict__


def test_a_repaired_copy_is_the_same_weights_loaded_afresh(tmp_path):
    original = run("sft", max_steps=12).trainer.model
    kept = _logits(original)
    copied = copy.deepcopy(original)
    Panacea(radius=5.0).repair(copied, tiny.tokenizer(), harmful=HARMFUL)
    copied.save_pretrained(tmp_path)
    afresh = copy.deepcopy(run("sft", max_steps=12).trainer.model)
    afresh.load_adapter(tmp_path, "again")
    afresh.set_adapter("again")
    torch.testing.assert_close(_logits(copied), _logits(afresh), atol=1e-6, rtol=0)
    assert (_logits(copied) - kept).abs().max() > 1e-2
    torch.testing.assert_close(_logits(original), kept, atol=0, rtol=0)


def test_a_forward_that_hung_on_the_model_before_is_put_back():
    model, calls = tiny.model(), []
    original = model.forward

    def counted(*args, **kwargs):
        calls.append(1)
        return original(*args, **kwargs)

    model.forward = counted
    with fused_head(model):
        model(input_ids=IDS, labels=IDS, fused_lm_head=True)
    assert model.forward is counted
    _logits(model)
    assert calls == [1]
