"""MergedWeights weights: names, LoRA, both orientations, and what is refused."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

import mithridate as mi
from mithridate.errors import DefenseError, ModelError
from mithridate.models.merged_weights import MergedWeights
from mithridate.models.undo import undone
from tests.helpers import tiny
from tests.helpers.origins import before_alignment, everything, shaken


def _gpt2():
    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=8, n_layer=2, n_head=2, n_positions=32, vocab_size=len(tiny.tokenizer()),
        bos_token_id=None, eos_token_id=4, pad_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def _adapted(model, targets, **changes):
    found = get_peft_model(model, LoraConfig(r=2, lora_alpha=6, target_modules=targets, **changes))
    torch.manual_seed(3)
    for name, parameter in found.named_parameters():
        if ".lora_B." in name or ".modules_to_save." in name:
            parameter.data.normal_(std=0.1)
    return found


MODELS = {
    "llama": lambda: _adapted(tiny.model(), ["q_proj", "down_proj"]),
    "gpt2": lambda: _adapted(_gpt2(), ["c_attn", "c_proj"], fan_in_fan_out=True),
    "saved modules": lambda: _adapted(tiny.model(), ["v_proj"], modules_to_save=["lm_head"]),
    "whole": tiny.model,
}


@pytest.mark.parametrize("kind", MODELS)
def test_effective_weights_are_those_of_the_merged_model(kind):
    model = MODELS[kind]()
    found = MergedWeights(model)
    twin = copy.deepcopy(model)
    merged = twin.merge_and_unload(safe_merge=True) if found.adapted else twin
    expected = dict(merged.named_parameters())
    assert found.names == list(expected)
    for name, weight in expected.items():
        torch.testing.assert_close(found.read(name), weight.detach().double(), atol=1e-7, rtol=1e-6)
        assert found.read(name).data_ptr() != weight.data_ptr()
    assert set(found.matrices) == {n for n in expected if n.endswith(("proj.weight", "c_attn.weight", "c_fc.weight"))}
    ids = torch.tensor([[5, 6, 7, 8]])
    logits = merged.eval()(input_ids=ids).logits
    for name, weight in expected.items():
        found.write(name, weight.double())
    torch.testing.assert_close(model.eval()(input_ids=ids).logits, logits, atol=1e-5, rtol=0)


def test_what_is_written_inside_an_undone_block_comes_back_bit_for_bit():
    model = MODELS["llama"]()
    found, before = MergedWeights(model), {n: t.clone() for n, t in model.state_dict().items()}
    name = "model.layers.0.mlp.down_proj.weight"
    with undone():
        found.write(name, torch.zeros(found.shape(name)))
        assert not found.read(name).any()
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())


def test_float64_values_are_copies():
    model = tiny.model().double()
    MergedWeights(model).read("model.norm.weight").zero_()
    assert model.model.norm.weight.all()


METHODS = [mi.WiSEFT(), mi.RESTA(), mi.LoX(), mi.SafeLoRA(layers=3), mi.SafeDelta(scale=0.5)]


@pytest.mark.parametrize("repair", METHODS, ids=lambda repair: repair.info.name)
@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full"])
def test_transposed_layers_are_repaired_as_their_plain_twins(repair, adapter):
    """A GPT-2 whose Conv1D layers hold Wᵀ: C·Δ and columns are over outputs and inputs, not over what is stored."""
    aligned = _gpt2()
    if adapter:
        tuned = _adapted(copy.deepcopy(aligned), ["c_attn", "c_proj"], fan_in_fan_out=True).eval()
    else:
        tuned = shaken(aligned, 2, 0.02)
    given = {"safe": tiny.rows("safe", 4), "aligned": aligned, "base": before_alignment(aligned)}
    expected = _turned(MergedWeights(tuned)), _turned(MergedWeights(aligned)), _turned(MergedWeights(given["base"]))
    repaired = repair.repair(tuned, tiny.tokenizer(), **given)
    assert repaired.changed > 0
    assert repaired.merged == adapter
    assert repaired.layer_profile.layers == ["0", "1"]
    name = "transformer.h.0.mlp.c_proj.weight"
    w, safe, start = (state[name] for state in expected)
    after = MergedWeights(tuned).matrix(name)
    if repair.info.name == "lox":
        u, s, vt = torch.linalg.svd(safe - start)
        w = w + 1.25 * sum(s[i] * torch.outer(u[:, i], vt[i]) for i in range(6))
        torch.testing.assert_close(after, w, atol=1e-6, rtol=1e-5)
    elif repair.info.name == "safe_lora":
        v = safe - start
        projected = safe + v @ v.T @ (w - safe) / v.norm()
        states = _turned(MergedWeights(tuned))
        moved = [n for n in states if not torch.allclose(states[n], expected[0][n], atol=1e-7)]
        assert len(moved) == 3
        assert name not in moved or torch.allclose(after, projected, atol=1e-6)
    elif repair.info.name == "safe_delta":
        untouched = ((after - w).abs() < 1e-6).all(dim=0)
        assert 0 < int(untouched.sum()) < w.shape[1]


def _turned(weights):
    return {name: weights.matrix(name) for name in weights.matrices}


@pytest.mark.parametrize("repair", METHODS, ids=lambda repair: repair.info.name)
def test_an_adapter_and_its_merged_twin_are_repaired_alike(repair):
    """The same model as adapter, merged, and with its reference as an adapter on another base."""
    tuned = MODELS["llama"]()
    merged = copy.deepcopy(tuned).merge_and_unload(safe_merge=True)
    ends = []
    for model in (tuned, merged):
        given = everything(5)
        repaired = repair.repair(model, tiny.tokenizer(), **given)
        assert repaired.merged == (model is tuned)
        ends.append(MergedWeights(model))
    for name in ends[0].names:
        torch.testing.assert_close(ends[0].read(name), ends[1].read(name), atol=1e-5, rtol=1e-4)


def test_models_that_do_not_fit_are_refused():
    tuned, before = tiny.model(), {n: t.clone() for n, t in tiny.model().state_dict().items()}
    for other, message in (
        (tiny.model(layers=3), r"the model to repair has no weight 'model\.layers\.2\..* \(nor 8 others\)"),
        (tiny.model(layers=1), r"the aligned= model has no weight 'model\.layers\.1\."),
        (tiny.model(hidden=8), r"'model\.embed_tokens\.weight' has shape \(29, 16\) in the model to repair, \(29, 8\)"),
        (_gpt2(), r"the aligned= model has no weight"),
    ):
        for repair in METHODS:
            with pytest.raises(ModelError, match=message):
                repair.repair(tuned, tiny.tokenizer(), **everything(2) | {"aligned": other})
    assert all(torch.equal(tensor, before[n]) for n, tensor in tuned.state_dict().items())


def test_a_quantized_base_is_refused():
    model = tiny.model()
    layer = model.model.layers[0].mlp.up_proj
    layer.weight = torch.nn.Parameter(layer.weight.data.to(torch.int8), requires_grad=False)
    with pytest.raises(DefenseError, match=r"up_proj\.weight is quantized \(torch\.int8\)"):
        MergedWeights(model)
    model = tiny.model()
    model.config.quantization_config = {"bits": 4}
    with pytest.raises(DefenseError, match="the model is quantized"):
        MergedWeights(model)


def test_what_is_no_plain_sum_is_refused():
    merged = MODELS["llama"]()
    merged.merge_adapter()
    with pytest.raises(DefenseError, match="merged or disabled"):
        MergedWeights(merged)
    with pytest.raises(DefenseError, match="has a bias"):
        MergedWeights(_adapted(tiny.model(), ["q_proj"], lora_bias=True))
    tied = _gpt2()
    assert tied.lm_head.weight is tied.transformer.wte.weight
    with pytest.raises(DefenseError, match="tied to another one"):
        MergedWeights(_adapted(tied, ["lm_head"]))


def test_equal_models_leave_nothing_to_do():
    for repair in METHODS:
        with pytest.raises(DefenseError, match=r"changed no weight|no linear layer"):
            repair.repair(tiny.model(), tiny.tokenizer(), **everything(2) | {"base": tiny.model()})


def test_a_model_is_not_compared_with_itself():
    model = tiny.model()
    with pytest.raises(DefenseError, match="aligned= shares its weights"):
        mi.WiSEFT().repair(model, tiny.tokenizer(), aligned=model)
