"""Names decide nothing: adapters called like parts of a path, and modules called like PEFT's."""

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from torch import nn

import mithridate as mi
from mithridate.errors import DefenseError
from mithridate.models.adapter_layers import adapter_parameters, all_loras, linear_layers, lora_layers
from mithridate.models.merged_weights import MergedWeights
from mithridate.models.submodules import submodules
from mithridate.models.tokenization import tokenize
from mithridate.repair.budgets import RowLosses
from mithridate.repair.repairable import repairable
from tests.helpers import tiny
from tests.helpers.adapters import (
    KINDS,
    TARGETS,
    Int8Linear,
    adapted,
    effective,
    filled,
    origin,
    stored,
    tied,
    with_second,
)
from tests.helpers.origins import everything

NASTY = [
    "q_proj", "layers", "model", "0", "1", "weight", "base_model", "base_layer", "lora_A", "lora_B", "lora_x",
    "modules_to_save", "original_module",
]  # fmt: skip


@pytest.mark.parametrize("other", NASTY)
@pytest.mark.parametrize("saved", [None, ["lm_head"]], ids=["factors", "saved head"])
def test_of_two_adapters_only_the_active_one_moves_whatever_it_is_called(other, saved):
    model = adapted(tiny.model(), adapter="first", modules_to_save=saved)
    with_second(model, other, modules_to_save=saved)
    for active in ("first", other):
        model.set_adapter(active)
        before = stored(model)
        repaired = mi.RandomPerturbation(radius=1.0).repair(model, tiny.tokenizer())
        moved = [p for n, p in model.named_parameters() if not torch.equal(p, before[n])]
        assert {id(p) for p in moved} == {id(p) for p in _own(model, active)}
        assert repaired.changed == pytest.approx(sum(p.numel() for p in moved), rel=0.01)


def _own(model, adapter):
    """What PEFT itself holds under an adapter's name."""
    found = []
    for module in model.modules():
        for kind in ("lora_A", "lora_B", "modules_to_save"):
            held = getattr(module, kind, None)
            if isinstance(held, nn.ModuleDict) and adapter in held:
                found += held[adapter].parameters()
    return found


@pytest.mark.parametrize("name", ["layers", "base_layer", "lora_B", "modules_to_save"])
@pytest.mark.parametrize(
    "repair", [mi.WiSEFT(), mi.Antidote(mask_ratio=0.3), mi.Antidote(mask_ratio=0.3, scope="delta")], ids=str
)
def test_an_adapter_is_repaired_alike_whatever_it_is_called(repair, name):
    ends = []
    for adapter in ("default", name):
        model = adapted(tiny.model(), adapter=adapter, modules_to_save=["lm_head"])
        repair.repair(model, tiny.tokenizer(), **everything(2))
        ends.append([MergedWeights(model).read(n) for n in MergedWeights(model).names])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


class Odd(nn.Module):
    """A decoder whose own modules are called like PEFT's."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleDict({n: nn.Linear(2, 2) for n in ("lora_mix", "base_layer", "mlp")})])
        self.base_layer_norm = nn.LayerNorm(2)


def test_modules_called_like_peft_s_are_plain_modules():
    model = Odd()
    assert list(linear_layers(model)) == ["layers.0.lora_mix", "layers.0.base_layer", "layers.0.mlp"]
    assert MergedWeights(model).names == [name for name, _ in model.named_parameters()]
    assert repairable(model).names == MergedWeights(model).names


def test_saved_modules_inside_blocks_stand_for_the_original_ones():
    model = adapted(tiny.model(), ["q_proj"], modules_to_save=["up_proj"])
    ours = linear_layers(model)
    wrapper = model.get_base_model().model.layers[1].mlp.up_proj
    assert ours["model.layers.1.mlp.up_proj"] is wrapper.modules_to_save["default"]
    assert list(ours) == list(linear_layers(tiny.model()))
    assert MergedWeights(model).names == [name for name, _ in tiny.model().named_parameters()]
    assert {id(p) for p in adapter_parameters(model)} >= {
        id(p) for p in wrapper.modules_to_save["default"].parameters()
    }
    assert id(wrapper.original_module.weight) not in {id(p) for p in adapter_parameters(model)}


def test_a_layer_that_only_an_idle_adapter_has_is_a_plain_one():
    model = with_second(adapted(tiny.model(), ["q_proj"]))
    assert {lora.name.rsplit(".", 1)[1] for lora in lora_layers(model)} == {"q_proj"}
    assert {lora.adapter for lora in all_loras(model)} == {"default"}
    mi.Panacea(radius=1.0).repair(model, tiny.tokenizer(), harmful=tiny.rows("harmful", 3))


def test_without_an_active_adapter_nothing_is_repaired():
    model = adapted(tiny.model())
    model.base_model.set_adapter([])
    with pytest.raises(DefenseError, match="none is active"):
        mi.RandomPerturbation(radius=1.0).repair(model, tiny.tokenizer())


def test_prompt_tuning_is_refused():
    model = get_peft_model(tiny.model(), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    assert isinstance(model, PeftModel)
    for repair in (mi.RandomPerturbation(radius=1.0), mi.WiSEFT(), mi.Antidote(scope="weights")):
        with pytest.raises(DefenseError, match="without LoRA; other adapter types"):
            repair.repair(model, tiny.tokenizer(), **everything(2))


def test_unusual_kinds_of_lora_are_refused():
    bd = get_peft_model(tiny.model(), LoraConfig(r=2, target_modules=TARGETS, init_lora_weights="mica"))
    with pytest.raises(DefenseError, match="MiCALinearVariant; other adapter types"):
        submodules(bd)


def test_an_offloaded_adapter_is_refused():
    model = adapted(tiny.model())
    layer = model.get_base_model().model.layers[0].mlp.down_proj
    layer.lora_B["default"].to("meta")
    with pytest.raises(DefenseError, match="is offloaded"):
        repairable(model)


@pytest.mark.parametrize("kind", ["dora", "dora, gpt2", "rslora", "embeddings", "saved in blocks", "lm_head"])
def test_effective_weights_are_those_that_peft_merges(kind):
    model = KINDS[kind]()
    found = MergedWeights(model)
    expected = effective(model, exact=True)
    for name, weight in zip(found.names, expected.values(), strict=True):
        torch.testing.assert_close(found.read(name), weight, atol=1e-12, rtol=1e-12)
    assert found.names == [name for name, _ in origin(kind).named_parameters()]


@pytest.mark.parametrize("kind", ["dora", "dora, gpt2", "embeddings"])
def test_effective_weights_are_held_as_written(kind):
    """Also by DoRA, whose magnitudes are set to the new norms."""
    model, twin = KINDS[kind]().eval(), origin(kind).eval()
    found = MergedWeights(model)
    for name, weight in twin.named_parameters():
        found.write(name, 1.5 * weight.detach())
    for parameter in twin.parameters():
        parameter.data.mul_(1.5)
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(model(input_ids=ids).logits, twin(input_ids=ids).logits, atol=1e-4, rtol=1e-5)


def test_dora_cannot_hold_a_row_of_zeros():
    model = adapted(tiny.model(), use_dora=True)
    before = stored(model)
    with pytest.raises(DefenseError, match=r"output row of 'model\.layers\.0\.self_attn\.q_proj\.weight' at zero"):
        mi.Antidote(mask_ratio=1.0, scope="weights").repair(model, tiny.tokenizer(), harmful=tiny.rows("harmful", 2))
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_lora_on_embeddings_whose_weight_the_head_shares_is_refused():
    """W is the head's too, so it cannot take the embedding's ΔW."""
    model = adapted(tied(), ["embed_tokens"])
    with pytest.raises(DefenseError, match="lm_head is tied to another one"):
        MergedWeights(model)


def test_the_profile_under_dora_is_that_of_the_effective_weights():
    model = adapted(tiny.model(), use_dora=True)
    before = {n: w.clone() for n, w in effective(model, exact=True).items()}
    repaired = mi.RandomPerturbation(radius=2.0).repair(model, tiny.tokenizer())
    after = effective(model, exact=True)
    for layer, norm in zip(repaired.layer_profile.layers, repaired.layer_profile.delta_norm, strict=True):
        own = [n for n in after if f".layers.{layer}." in n]
        expected = sum(float((after[n] - before[n]).square().sum()) for n in own) ** 0.5
        assert norm == pytest.approx(expected, rel=1e-9)
    assert any(n.endswith("magnitude_vector.default.weight") for n in repaired.displacement.names)


def test_panacea_on_dora_goes_up_the_harmful_loss():
    model, rows = adapted(tiny.model(), use_dora=True), tiny.rows("harmful", 8)
    before = _loss(model, rows)
    mi.Panacea(radius=0.05).repair(model, tiny.tokenizer(), harmful=rows)
    assert _loss(model, rows) > before


def _loss(model, rows):
    return float(RowLosses(model, repairable(model), tokenize(rows, tiny.tokenizer()), 8)().mean())


def test_only_the_adapter_is_repaired_where_transformers_put_it_in():
    model = tiny.model()
    model.add_adapter(LoraConfig(r=2, target_modules=TARGETS))
    filled(model)
    assert all("lora_" in name for name in repairable(model).names)


def test_a_quantized_model_without_adapter_is_refused():
    """Its norms and embeddings alone would be displaced."""
    model = tiny.model()
    model.model.layers[0].mlp.up_proj = Int8Linear(model.model.layers[0].mlp.up_proj)
    with pytest.raises(DefenseError, match="is quantized"):
        repairable(model)


@pytest.mark.parametrize("saved", [None, ["lm_head"], ["up_proj"]], ids=["factors", "saved head", "saved in blocks"])
def test_every_path_leads_to_its_module(saved):
    model = adapted(tiny.model(), ["q_proj"], modules_to_save=saved)
    found = submodules(model)
    assert any(submodule.lora for submodule in found)
    assert any(submodule.saved for submodule in found) == bool(saved)
    for submodule in found:
        assert model.get_submodule(submodule.path) is submodule.module, submodule.path
