"""A base held in 8 or 4 bits by bitsandbytes, under an adapter in float32 (QLoRA, arXiv 2305.14314).

The library need not be installed, so its classes are known by their names here.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from peft.utils.integrations import dequantize_bnb_weight
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from mithridate.errors import ModelError, UsageError

LIBRARY = "bitsandbytes"

Quantization = Literal["none", "int8", "nf4", "nf4_double", "fp4"]
"""``int8``: LLM.int8(). ``nf4``, ``fp4``: 4 bits in blocks of 64. ``nf4_double``: NF4, the blocks' scales in 8 bits."""

BITS = {"none": None, "int8": 8.0, "nf4": 4.5, "nf4_double": 4.127, "fp4": 4.5}
"""Bits of a weight with its share of the scales: a float32 a block of 64, or 8 bits a block and a float32 per 256."""

_QUANTIZED = ("Params4bit", "Int8Params")
_REPACKS = "support_avx512bf16_for_cpu"


def require_library(asked: str, instead: str) -> None:
    """Check that bitsandbytes is installed.

    Args:
        asked: The setting that needs it.
        instead: What to do without it.

    Raises:
        UsageError: If it is not.
    """
    if importlib.util.find_spec(LIBRARY) is None:
        raise UsageError(f"{asked} needs {LIBRARY}; install mithridate[{LIBRARY}], or {instead}")


def quantization_config(form: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """Return how transformers is to load a base; None for a base that is not quantized.

    Args:
        form: How the base is held.
        dtype: Type in which layers of 4 bits compute.

    Raises:
        UsageError: If bitsandbytes is not installed.
    """
    if form == "none":
        return None
    require_library(f"quantize {form}", "set quantize to none")
    if form == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="fp4" if form == "fp4" else "nf4",
        bnb_4bit_use_double_quant=form == "nf4_double",
        bnb_4bit_compute_dtype=dtype,
    )


def quantized_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers whose weight bitsandbytes holds, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if type(module._parameters.get("weight")).__name__ in _QUANTIZED
    }


def prevent_repacking(model: nn.Module) -> None:
    """Have layers of 4 bits keep their weights as they are in evaluation mode.

    On CPUs with bfloat16 instructions bitsandbytes repacks the weights at the first forward pass in evaluation mode.
    From then on such a layer hands no gradient to what comes before it, without an error, its weights are no longer
    dequantized to what they were, and its scales are rounded to bfloat16 for good.
    """
    layers: list[Any] = [layer for layer in quantized_layers(model).values() if hasattr(layer, _REPACKS)]
    for layer in layers:
        # The one switch that the library has for it, read at each forward pass.
        setattr(layer, _REPACKS, False)


def keep_differentiable(model: nn.Module) -> None:
    """Make sure that layers of 4 bits can be differentiated through, now and after an evaluation.

    Raises:
        ModelError: If layers were repacked before, see `prevent_repacking`.
    """
    prevent_repacking(model)
    for name, layer in quantized_layers(model).items():
        state: Any = getattr(layer.weight, "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            raise ModelError(
                f"{LIBRARY} has repacked {name} for generating on this CPU, so that no gradient passes through it; "
                "load the model again, and hand it to mithridate before it generates"
            )


def values(layer: nn.Module) -> Tensor:
    """Return the weight of a layer as it acts, (outputs, inputs); dequantized where bitsandbytes holds it."""
    weight: Any = layer.weight
    found: Tensor = weight
    with torch.no_grad():
        if type(weight).__name__ == "Params4bit":
            found = dequantize_bnb_weight(weight)
        elif type(weight).__name__ == "Int8Params":
            # The first forward pass takes the scales from the weight to the layer's state. PEFT's own function loses
            # them if it is called before.
            state: Any = layer.state
            scales = state.SCB if weight.SCB is None else weight.SCB
            found = weight.data.float() * (scales.float().unsqueeze(1) / 127)
    return found


@contextmanager
def computing_in_float32(model: nn.Module) -> Iterator[None]:
    """Inside the block layers of 4 bits compute in float32, forward and backward.

    Those of 8 bits round what enters them to 8 bits whatever they are told.
    """
    layers: list[Any] = [layer for layer in quantized_layers(model).values() if hasattr(layer, "compute_dtype")]
    # The state's type is the one to which the backward pass dequantizes.
    states: list[Any] = [layer.weight.quant_state for layer in layers]
    before = [(layer.compute_dtype, state.dtype) for layer, state in zip(layers, states, strict=True)]
    try:
        for layer, state in zip(layers, states, strict=True):
            layer.compute_dtype = state.dtype = torch.float32
        yield
    finally:
        for layer, state, (computed, dequantized) in zip(layers, states, before, strict=True):
            layer.compute_dtype, state.dtype = computed, dequantized
