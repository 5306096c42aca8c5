"""What a repair acts on, found by structure, and what it refuses."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from mithridate.defenses.antidote import Antidote
from mithridate.defenses.random_perturbation import RandomPerturbation
from mithridate.errors import DefenseError, ModelError
from mithridate.models.adapter_layers import linear_layers, lora_layers
from mithridate.models.merged_weights import MergedWeights
from mithridate.repair.prunable import prunable
from mithridate.repair.repairable import repairable
from tests.helpers import tiny

BLOCK = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def test_linear_layers_are_those_of_the_blocks():
    plain, tuned = linear_layers(tiny.model()), linear_layers(get_peft_model(tiny.model(), tiny.lora()))
    assert sorted(name.rsplit(".", 1)[1] for name in plain) == sorted(BLOCK * 2)
    assert sorted(name.rsplit(".", 1)[1] for name in tuned) == sorted(BLOCK * 2)


def test_only_the_active_adapter_is_moved():
    model = get_peft_model(tiny.model(), tiny.lora())
    model.add_adapter("other", tiny.lora(2))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    repaired = RandomPerturbation(radius=1.0).repair(model, tiny.tokenizer())
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n in before if ".lora_" in n and ".default." in n}
    assert repaired.distance == pytest.approx(1.0, rel=1e-5)
    assert repairable(model).names == [n for n in before if n in moved]


def test_several_active_adapters_and_dora_are_refused():
    model = get_peft_model(tiny.model(), tiny.lora())
    model.add_adapter("other", tiny.lora(2))
    model.base_model.set_adapter(["default", "other"])
    with pytest.raises(DefenseError, match="2 active LoRA adapters"):
        lora_layers(model)
    dora = get_peft_model(tiny.model(), LoraConfig(r=2, target_modules=["q_proj"], use_dora=True))
    with pytest.raises(DefenseError, match="DoRA"):
        lora_layers(dora)


@pytest.mark.parametrize("scope", ["adapter", "delta"])
def test_a_model_without_adapter_is_refused(scope):
    with pytest.raises(DefenseError, match="no LoRA adapter to repair"):
        Antidote(scope=scope).repair(tiny.model(), tiny.tokenizer(), harmful=tiny.rows("harmful", 2))


def test_a_quantized_base_is_refused():
    model = tiny.model()
    layer = model.model.layers[0].mlp.up_proj
    layer.weight = torch.nn.Parameter(layer.weight.data.to(torch.int8), requires_grad=False)
    with pytest.raises(DefenseError, match=r"up_proj\.weight is quantized \(torch\.int8\)"):
        prunable(model, "weights", lambda: MergedWeights(model))


def test_a_merged_adapter_is_refused():
    model = get_peft_model(tiny.model(), tiny.lora())
    model.merge_adapter()
    with pytest.raises(DefenseError, match="merged or disabled"):
        Antidote().repair(model, tiny.tokenizer(), harmful=tiny.rows("harmful", 2))


def test_a_model_without_numbered_blocks_is_refused():
    with pytest.raises(ModelError, match="no linear layers inside numbered decoder blocks"):
        linear_layers(torch.nn.Sequential(torch.nn.Linear(2, 2)))


def test_transposed_weights_are_pruned_by_output_all_the_same():
    """GPT-2 stores weights as (inputs, outputs)."""
    torch.manual_seed(0)
    config = GPT2Config(n_embd=8, n_layer=1, n_head=2, n_positions=32, vocab_size=len(tiny.tokenizer()))
    model = GPT2LMHeadModel(config)
    Antidote(scope="weights", mask_ratio=0.25).repair(model, tiny.tokenizer(), harmful=tiny.rows("harmful", 3))
    weight = model.transformer.h[0].attn.c_attn.weight
    assert weight.shape == (8, 24)
    assert ((weight == 0).sum(dim=0) == 2).all()
