"""Tiny models on a base that bitsandbytes holds, and the same models with that base dequantized to float32."""

import functools
import tempfile
from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from mithridate.models.quantized_base import quantization_config, quantized_layers, values
from tests.helpers import tiny
from tests.helpers.adapters import adapted

HIDDEN = 64
"""The library's kernels take widths that 32 divides."""
FORMS = ["nf4", "nf4_double", "fp4", "int8"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def require_bitsandbytes() -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra: pip install 'mithridate[bitsandbytes]'")


@functools.cache
def folder() -> str:
    path = tempfile.mkdtemp()
    tiny.model(hidden=HIDDEN).save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


def base(form: Any, dtype: torch.dtype = torch.float32) -> Any:
    """A base without adapter, as transformers loads it."""
    settings = quantization_config(form, dtype)
    given = {} if settings is None else {"quantization_config": settings}
    model = AutoModelForCausalLM.from_pretrained(folder(), dtype=dtype, **given)
    return model.to(DEVICE) if settings is None else model


def dequantized(form: Any) -> Any:
    """The same base in float32: every weight as it acts in the quantized one."""
    plain = base("none")
    for name, layer in quantized_layers(base(form)).items():
        plain.get_submodule(name).weight.data.copy_(values(layer))
    return plain


def with_lora(model: Any, fresh: bool = False) -> Any:
    """With LoRA on it: as PEFT makes it, or with every factor random."""
    if not fresh:
        return adapted(model)
    torch.manual_seed(1)
    return get_peft_model(model, tiny.lora(2))


def factors(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if "lora_" in name}
