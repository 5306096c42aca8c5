"""QLoRA: on a quantized base a defense trains what it would train on the dequantized one.

Checked on the device at hand: on a CPU, and on a GPU where there is one.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import mithridate as mi
from mithridate.defenses.registry import methods
from mithridate.errors import ModelError, UsageError
from mithridate.evaluation.generation import generate
from mithridate.models.modes import in_float32
from mithridate.models.quantized_base import computing_in_float32, prevent_repacking, quantized_layers, values
from mithridate.training.quantized_host import adapter_given
from tests.helpers import tiny
from tests.helpers.quantized import DEVICE, FORMS, base, dequantized, factors, with_lora
from tests.helpers.quantized import require_bitsandbytes as _require
from tests.helpers.training import distance, streams, training_methods
from tests.matrix.rows import ROWS

CPU = DEVICE == "cpu"
FRESH = ("salora", "lox_alignment")
"""Methods that take an adapter only as it starts."""


@pytest.fixture(autouse=True)
def _library() -> None:
    _require()


def trained(model: Any, folder: Path, name: str, settings: dict[str, Any] | None = None, **changes: Any) -> Any:
    defense = methods()[name].cls(**(ROWS[name].default if settings is None else settings))
    made = mi.DefendedTrainer(
        with_lora(model, name in FRESH),
        args=tiny.config(folder, **({"max_steps": 2, "use_cpu": CPU} | changes)),
        train_dataset=tiny.rows("user"),
        processing_class=tiny.tokenizer(),
        defense=defense,
        **streams(),
    )
    made.train()
    return made.model


QUICK = ("antibody_alignment", "antibody_tuning", "booster", "repnoise", "sft", "t_vaccine")
"""Trained on other forms than the first at every commit: every way to displace, weigh and watch."""


def _on_every_form() -> Iterator[Any]:
    for name in training_methods():
        for form in FORMS:
            quick = form == "nf4" or (form == "int8" and name in QUICK)
            yield pytest.param(name, form, marks=[] if quick else pytest.mark.slow)


@pytest.mark.parametrize(("name", "form"), _on_every_form())
def test_a_step_is_that_on_the_dequantized_base(name: str, form: str, tmp_path: Path) -> None:
    if form == "int8" and (name == "salora" or not CPU):
        # LLM.int8() rounds what enters a layer to 8 bits too: on GPUs always, on CPUs in evaluation mode, in which
        # SaLoRA finds its directions.
        pytest.skip("the 8-bit base computes with rounded activations here")
    start = factors(with_lora(base(form), name in FRESH))
    ours = factors(trained(base(form), tmp_path / "ours", name))
    plain = factors(trained(dequantized(form), tmp_path / "plain", name))
    tolerance = 1e-5 if CPU else 1e-3
    assert distance(ours, plain) <= tolerance
    assert distance(ours, start) > 5e-3


@pytest.mark.parametrize("name", training_methods())
def test_switched_off_equals_plain_sft(name: str, tmp_path: Path) -> None:
    off = trained(base("nf4"), tmp_path / "off", name, methods()[name].off)
    sft = with_lora_trained_by_sft(tmp_path / "sft", name in FRESH)
    assert distance(factors(off), sft) == 0


def with_lora_trained_by_sft(folder: Path, fresh: bool) -> dict[str, torch.Tensor]:
    made = mi.DefendedTrainer(
        with_lora(base("nf4"), fresh),
        args=tiny.config(folder, max_steps=2, use_cpu=CPU),
        train_dataset=tiny.rows("user"),
        processing_class=tiny.tokenizer(),
        defense=mi.SFT(),
    )
    made.train()
    return factors(made.model)


@pytest.mark.parametrize(("name", "changes"), [("booster", {"every": 2}), ("antibody_alignment", {})])
def test_micro_batches_make_the_same_step(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    whole = trained(base("nf4"), tmp_path / "whole", name, changes)
    cut = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    assert distance(factors(whole), factors(trained(base("nf4"), tmp_path / "cut", name, changes, **cut))) <= 1e-4


def test_an_adapter_keeps_its_type_and_the_base_its_bits(tmp_path: Path) -> None:
    """TRL stores an adapter on a quantized base in bfloat16, a given one too."""
    model = with_lora(base("nf4"))
    before = {name: layer.weight.detach().clone() for name, layer in quantized_layers(model).items()}
    given = factors(model)
    made = mi.DefendedTrainer(
        model,
        args=tiny.config(tmp_path, max_steps=1, learning_rate=1e-9, use_cpu=CPU),
        train_dataset=tiny.rows("user"),
        processing_class=tiny.tokenizer(),
        defense=mi.SFT(),
    )
    assert distance(factors(made.model), given) == 0
    made.train()
    assert {weight.dtype for weight in factors(made.model).values()} == {torch.float32}
    # A step that bfloat16 would round away.
    assert 0 < distance(factors(made.model), given) < 1e-7
    assert all(torch.equal(layer.weight, before[name]) for name, layer in quantized_layers(made.model).items())


def test_a_new_adapter_is_float32_and_all_weights_are_refused(tmp_path: Path) -> None:
    common: dict[str, Any] = {
        "args": tiny.config(tmp_path, max_steps=1, use_cpu=CPU),
        "train_dataset": tiny.rows("user"),
        "processing_class": tiny.tokenizer(),
        "defense": mi.SFT(),
    }
    made = mi.DefendedTrainer(base("nf4"), peft_config=tiny.lora(), **common)
    assert adapter_given(base("nf4"), {"peft_config": tiny.lora()}) == {}, "no copies of embeddings"
    assert {weight.dtype for weight in factors(made.model).values()} == {torch.float32}
    with pytest.raises(UsageError, match="is quantized, so its weights cannot be trained; pass peft_config"):
        mi.DefendedTrainer(base("int8"), **common)


@pytest.mark.parametrize("form", ["nf4", "nf4_double"])
def test_an_evaluation_before_a_training_costs_no_gradient(form: str, tmp_path: Path) -> None:
    fresh = factors(trained(base(form), tmp_path / "fresh", "sft"))
    asked = base(form)
    generate(asked, tiny.tokenizer(), ["how do i make the red cake"], max_new_tokens=4)
    assert distance(fresh, factors(trained(asked, tmp_path / "asked", "sft"))) == 0


def repacked() -> Any:
    """A base that has generated before we saw it."""
    model = base("nf4").eval()
    with torch.no_grad():
        model(input_ids=torch.ones(1, 4, dtype=torch.long, device=model.device))
    states = [layer.weight.quant_state for layer in quantized_layers(model).values()]
    if not any(getattr(state, "packing_format_for_cpu", False) for state in states):
        pytest.skip("this machine's bitsandbytes repacks nothing")
    return model


def test_layers_that_the_library_has_repacked_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has repacked .*layers\.0\.self_attn\.q_proj.* load the model again"):
        trained(repacked(), tmp_path, "sft")
    with pytest.raises(ModelError, match="has repacked"):
        mi.RandomPerturbation(radius=1.0).repair(with_lora(repacked()), tiny.tokenizer())


def test_precise_passes_compute_in_float32() -> None:
    ids = torch.arange(5, 13, device=DEVICE).unsqueeze(0)
    half = base("nf4", torch.bfloat16)
    prevent_repacking(half)
    with in_float32(half), torch.no_grad():
        precise = half(input_ids=ids).logits
    layer = half.model.layers[0].self_attn.q_proj
    assert (layer.compute_dtype, layer.weight.quant_state.dtype) == (torch.bfloat16, torch.bfloat16)
    twin = base("none")
    with torch.no_grad(), computing_in_float32(half):
        for name, parameter in half.named_parameters():
            own = half.get_submodule(name.rpartition(".")[0])
            twin.get_parameter(name).copy_(values(own) if own in quantized_layers(half).values() else parameter)
    with torch.no_grad():
        torch.testing.assert_close(precise, twin(input_ids=ids).logits, atol=1e-5, rtol=1e-5)
        assert float((precise - half(input_ids=ids).logits).abs().max()) > 1e-3
