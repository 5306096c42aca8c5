"""Every method on every family of decoders: parts are found by structure, and one step or repair acts."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from mithridate.defenses.registry import methods
from mithridate.errors import ModelError
from mithridate.models.activations import captured
from mithridate.models.decoder import decoder_of
from mithridate.training.trainer import DefendedTrainer
from tests.families.models import FAMILIES, family
from tests.helpers import tiny
from tests.helpers.origins import shaken
from tests.helpers.training import repair_methods, streams, training_methods
from tests.matrix.row import thinned
from tests.matrix.rows import ROWS

UNLIKE = ("llama", "gemma2", "gpt2", "opt")
"""Families whose blocks are built in other ways; the rest are cousins of the first, on which the matrix runs."""


def _lora():
    """A new one each time, since PEFT writes the layers it found into it."""
    return LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


def _adapted(name):
    torch.manual_seed(1)
    model = get_peft_model(family(name), _lora())
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", FAMILIES)
def test_parts_are_found_by_structure(name, lora):
    model = _adapted(name) if lora else family(name)
    decoder = decoder_of(model)
    assert len(decoder.blocks) == len(decoder.attention) == len(decoder.mlp) == 2
    ids = torch.tensor([[5, 6, 7, 8]])
    with captured([*decoder.attention, *decoder.mlp, *decoder.blocks, decoder.norm]) as outputs:
        theirs = model(input_ids=ids, output_hidden_states=True)
    assert all(output.reshape(1, 4, -1).shape == (1, 4, 16) for output in outputs)
    torch.testing.assert_close(outputs[4], theirs.hidden_states[1])
    torch.testing.assert_close(outputs[-1], theirs.hidden_states[-1])
    if name != "gemma2":  # whose logits are capped behind the head
        torch.testing.assert_close(decoder.read(outputs[5]), theirs.logits)


@pytest.mark.parametrize("name", training_methods())
@pytest.mark.parametrize("kind", thinned(FAMILIES, UNLIKE[1:]))
def test_every_defense_takes_steps(kind, name, tmp_path):
    row, model = ROWS[name], family(kind)
    trainer = DefendedTrainer(
        model, args=tiny.config(tmp_path, max_steps=2), train_dataset=tiny.rows("user", 8), peft_config=_lora(),
        processing_class=tiny.tokenizer(), defense=methods()[name].cls(**row.default), **streams(),
    )  # fmt: skip
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    moved = [n for n, p in trainer.model.named_parameters() if p.requires_grad and not torch.equal(p, before[n])]
    assert moved
    last = [log for log in trainer.state.log_history if "loss" in log][-1]
    assert all(last[figure] > 0 for figure in row.active)


@pytest.mark.parametrize("name", repair_methods())
@pytest.mark.parametrize("kind", thinned(FAMILIES, UNLIKE))
def test_every_repair_acts(kind, name):
    model = _adapted(kind)
    given = {
        "harmful": tiny.rows("harmful", 4), "safe": tiny.rows("safe", 4),
        "aligned": family(kind), "base": shaken(family(kind), 3, 0.05),
    }  # fmt: skip
    repaired = methods()[name].cls(**ROWS[name].strained).repair(model, tiny.tokenizer(), **given)
    assert repaired.changed > 0
    assert all(repaired.activity[figure] > 0 for figure in ROWS[name].active)
    assert torch.isfinite(model(input_ids=torch.tensor([[5, 6, 7]])).logits).all()


def test_a_model_without_blocks_is_refused():
    with pytest.raises(ModelError, match="no list of decoder blocks"):
        decoder_of(torch.nn.Linear(2, 2))
