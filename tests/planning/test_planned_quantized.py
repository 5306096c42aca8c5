"""What a plan says of a quantized base, against what bitsandbytes holds."""

from typing import Any

import pytest
import torch

from mithridate.defenses.registry import methods
from mithridate.experiment.recipe_parts import LoraSettings
from mithridate.models.quantized_base import quantized_layers
from mithridate.planning.device_memory import form_memory
from mithridate.planning.pass_work import pass_work
from tests.helpers.quantized import FORMS, base, require_bitsandbytes

LORA = LoraSettings(rank=2, targets=["q_proj"])


def held_bytes(weight: Any) -> int:
    """Bytes of a quantized weight with its scales, without tables that all weights could share."""
    if type(weight).__name__ == "Int8Params":
        return int(weight.data.nbytes)
    state = weight.quant_state
    nested = state.state2.absmax.nbytes if state.nested else 0
    return int(weight.data.nbytes + state.absmax.nbytes + nested)


@pytest.mark.parametrize("form", FORMS)
def test_planned_weights_are_those_that_are_held(form: Any) -> None:
    require_bitsandbytes()
    held = base(form)
    quantized = sum(held_bytes(layer.weight) for layer in quantized_layers(held).values())
    rest = sum(p.numel() * p.element_size() for p in held.parameters() if p.is_floating_point())
    plain, work = (pass_work(held.config, torch.float32, LORA, one) for one in ("none", form))
    adapter = 4 * work.trainable
    assert work.quantized_bytes == pytest.approx(quantized, rel=0.01)
    assert work.weight_bytes == pytest.approx(quantized + rest + adapter, rel=0.01)
    assert (work.trainable, work.parameters, work.forward) == (plain.trainable, plain.parameters, plain.forward)


def test_nothing_quantized_is_copied_for_precise_passes() -> None:
    config = base("none").config
    plain, work = (pass_work(config, torch.bfloat16, LORA, one) for one in ("none", "nf4"))
    memory = [form_memory("LoRA", methods()["booster"].cls(), one, 10, False, True) for one in (plain, work)]
    assert memory[0].precise == 2 * plain.weight_bytes
    assert memory[1].precise == 2 * (work.weight_bytes - work.quantized_bytes)
    assert memory[1].weights < 0.5 * memory[0].weights
