"""Repairs on a base that bitsandbytes holds: of the adapter as on the dequantized base, of whole weights refused."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

import mithridate as mi
from mithridate.attacks import attack
from mithridate.defenses.registry import methods
from mithridate.errors import AttackError, MithridateError, ModelError
from mithridate.models.merge_loss import merge_loss, requantized
from mithridate.models.quantized_base import keep_differentiable, quantized_layers, values
from tests.helpers import tiny
from tests.helpers.adapters import Everything
from tests.helpers.quantized import DEVICE, FORMS, base, dequantized, factors, with_lora
from tests.helpers.quantized import require_bitsandbytes as _require
from tests.helpers.training import distance
from tests.matrix.row import thinned
from tests.repair.test_every_adapter import AUTO, CASES, LABELS, STREAMS

QUICK = ["nf4", "int8"]


@pytest.fixture(autouse=True)
def _library() -> None:
    _require()


def repaired(model: Any, name: str, settings: dict[str, Any]) -> Any:
    given: dict[str, Any] = {**STREAMS, "refusals": tiny.REFUSALS}
    given |= {reference: base("none") for reference in ("aligned", "base")}
    return methods()[name].cls(**settings).repair(model, tiny.tokenizer(), **given)


def merges(name: str, settings: dict[str, Any]) -> bool:
    return bool(methods()[name].cls(**settings).merges)


@pytest.mark.parametrize("form", thinned(FORMS, QUICK))
@pytest.mark.parametrize(("name", "settings"), CASES, ids=LABELS)
def test_a_repair_of_the_adapter_is_that_on_the_dequantized_base(
    name: str, settings: dict[str, Any], form: str
) -> None:
    model = with_lora(base(form))
    keep_differentiable(model)
    before = Everything(model) if DEVICE == "cpu" else None
    if merges(name, settings):
        with pytest.raises(MithridateError, match=r"the model is quantized, so its weights cannot be changed"):
            repaired(model, name, settings)
        assert before is None or before.changes() == []
        return
    plain = with_lora(dequantized(form))
    report, expected = repaired(model, name, settings), repaired(plain, name, settings)
    assert report.changed == expected.changed > 0
    # What enters a layer of 8 bits is rounded too, and a direction turns with it by as much.
    tolerance = 0.05 if form == "int8" or DEVICE != "cpu" else 1e-6
    assert report.distance == pytest.approx(expected.distance, rel=tolerance)
    assert distance(factors(model), factors(plain)) <= tolerance
    if before is not None:
        assert all("lora_" in change for change in before.changes())


@pytest.mark.usefixtures("short_openings")
@pytest.mark.parametrize("name", ["antidote", "panacea"])
def test_a_search_finds_the_same_dose(name: str) -> None:
    model, plain = with_lora(base("nf4")), with_lora(dequantized("nf4"))
    curves = [repaired(one, name, AUTO).dose_curve for one in (model, plain)]
    assert curves[0].chosen == curves[1].chosen
    tolerance = 1e-6 if DEVICE == "cpu" else 1e-2
    assert distance(factors(model), factors(plain)) <= tolerance


def test_a_quantized_reference_is_refused() -> None:
    model = with_lora(base("none"))
    with pytest.raises(MithridateError, match="is quantized"):
        mi.WiSEFT().repair(model, tiny.tokenizer(), aligned=base("nf4"))


def test_a_gradient_after_an_evaluation_of_the_callers_is_not_taken() -> None:
    """The caller generates by himself first; then the gradient of 4-bit layers would be missing, without an error."""
    model = with_lora(base("nf4")).eval()
    with torch.no_grad():
        model(input_ids=torch.ones(1, 4, dtype=torch.long, device=DEVICE))
    states = [layer.weight.quant_state for layer in quantized_layers(model).values()]
    if not any(getattr(state, "packing_format_for_cpu", False) for state in states):
        pytest.skip("this machine's bitsandbytes repacks nothing")
    before = factors(model)
    with pytest.raises(ModelError, match="has repacked"):
        repaired(model, "panacea", {"radius": 1.0})
    assert distance(factors(model), before) == 0


@pytest.mark.parametrize("name", ["quantized", "pruned"])
def test_an_attack_that_rewrites_weights_is_refused(name: str) -> None:
    settings = {"by": "magnitude"} if name == "pruned" else {}
    with (
        pytest.raises(AttackError, match="is quantized"),
        attack(name).cls(**settings).on(with_lora(base("nf4")), tiny.tokenizer()),
    ):
        pass


@pytest.mark.parametrize("form", FORMS)
def test_the_loss_of_merging_is_that_of_the_weights(form: Any) -> None:
    model, held = with_lora(base("none")), base(form)
    for name, layer in quantized_layers(held).items():
        own = base("none").get_submodule(name).weight
        torch.testing.assert_close(requantized(own, form), values(layer), atol=0, rtol=0)
    errors, whole, update = 0.0, 0.0, 0.0
    for name, layer in quantized_layers(held).items():
        part = model.get_submodule(f"base_model.model.{name}")
        delta = part.get_delta_weight("default").detach() if hasattr(part, "get_delta_weight") else 0.0
        trained = values(layer).double() + delta
        errors += float((base("none").get_submodule(name).weight.double() + delta - trained).square().sum())
        whole += float(trained.square().sum())
        update += float((trained - values(layer).double()).square().sum())
    loss = merge_loss(model, form)
    assert loss.merged == pytest.approx((errors / whole) ** 0.5, rel=1e-4)
    assert loss.update == pytest.approx((update / whole) ** 0.5, rel=1e-4)
    assert loss.merged <= loss.merged_most
    assert 0 < loss.requantized <= loss.requantized_most


@pytest.mark.parametrize("form", ["nf4", "int8"])
def test_the_loss_of_layers_stored_as_inputs_by_outputs_is_stated(form: Any) -> None:
    """transformers quantizes GPT-2's layers too, turned."""
    shape: Any = {"n_embd": 64, "n_layer": 1, "n_head": 2, "n_positions": 8, "vocab_size": 32, "eos_token_id": 4}
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=4, initializer_range=0.3))
    lora = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False)
    model = get_peft_model(model, lora)
    errors, whole = 0.0, 0.0
    for layer in model.get_base_model().modules():
        if isinstance(layer, Conv1D):
            held = requantized(layer.weight.T.contiguous(), form).double()
            errors += float((layer.weight.T.double() - held).square().sum())
            whole += float(held.square().sum())
    loss = merge_loss(model, form)
    attention = model.get_base_model().transformer.h[0].attn.c_attn
    base = requantized(attention.base_layer.weight.T.contiguous(), form).double()
    delta = attention.get_delta_weight("default").detach().T.double()
    whole += float((base + delta).square().sum() - base.square().sum())
    assert loss.merged == pytest.approx((errors / whole) ** 0.5, rel=1e-4)
    assert loss.update == pytest.approx(float(delta.norm()) / whole**0.5, rel=1e-4)


def test_a_loss_that_cannot_be_stated_is_not() -> None:
    with pytest.raises(ModelError, match="no linear layers that would be quantized"):
        merge_loss(_HeadOnly(), "nf4")


class _HeadOnly(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(64, 64, bias=False)

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head
