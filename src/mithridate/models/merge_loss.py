"""What is lost where an adapter that was trained on a quantized base is merged into the base's whole weights.

The adapter was trained on Q(W). Merged, it stands on W, and the model is another one: W + ΔW in place of Q(W) + ΔW.
Quantized again, as for serving, it is Q(W + ΔW).
"""

import importlib
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mithridate.errors import ModelError
from mithridate.models.lora import is_transposed
from mithridate.models.quantized_base import LIBRARY, Quantization, quantization_config, values
from mithridate.models.submodules import submodules


class MergeLoss(NamedTuple):
    """Relative errors of the quantized layers' weights, in the Frobenius norm.

    Attributes:
        merged: ‖W − Q(W)‖ / ‖Q(W) + ΔW‖ over all layers: what merging into the whole weights changes.
        merged_most: The largest of any one layer.
        requantized: ‖Q(W + ΔW) − (Q(W) + ΔW)‖ / ‖Q(W) + ΔW‖ over all layers: what merging and quantizing anew changes.
        requantized_most: The largest of any one layer.
        update: ‖ΔW‖ / ‖Q(W) + ΔW‖: what the adapter itself changes, to compare the others with.
    """

    merged: float
    merged_most: float
    requantized: float
    requantized_most: float
    update: float


@torch.no_grad()
def merge_loss(model: nn.Module, form: Quantization) -> MergeLoss:
    """Measure what merging an adapter into the whole weights loses, against the same base quantized.

    Args:
        model: The base in whole weights, with the adapter on it.
        form: How the base was held while the adapter was trained.

    Raises:
        ModelError: If no layer would be quantized, so that there is nothing to state.
        DefenseError: If the adapter is not one active LoRA or DoRA.
    """
    squares = torch.zeros(4, dtype=torch.float64)
    most = [0.0, 0.0]
    # The output head stays whole, as in bitsandbytes.
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    for part in submodules(model):
        layer: Any = part.module
        # The types that transformers replaces by quantized layers.
        if type(layer) not in (nn.Linear, Conv1D) or layer.weight is getattr(head, "weight", None) or part.saved:
            continue
        whole = layer.weight.detach().double()
        quantized = _held(layer, layer.weight, form)
        trained = quantized if part.lora is None else part.lora.merged(quantized)
        merged = whole if part.lora is None else part.lora.merged(whole)
        again = _held(layer, merged.to(layer.weight.dtype), form)
        found = torch.stack(
            [d.square().sum() for d in (merged - trained, again - trained, trained - quantized, trained)]
        )
        squares += found.cpu()
        shares = (found[:2] / found[3]).sqrt().tolist()
        most = [max(*pair) for pair in zip(most, shares, strict=True)]
    if not squares[3]:
        raise ModelError("the model has no linear layers that would be quantized, so no loss of merging can be stated")
    merged_, again_, update = (squares[:3] / squares[3]).sqrt().tolist()
    return MergeLoss(merged_, most[0], again_, most[1], update)


def _held(layer: nn.Module, weight: Tensor, form: Quantization) -> Tensor:
    """Return a weight of a layer as `requantized` does, in the layer's orientation and float64."""
    # transformers turns GPT-2's weights before it quantizes them, and the blocks of 64 run along the inputs.
    turned = is_transposed(layer)
    held = requantized(weight.T.contiguous() if turned else weight, form).double()
    return held.T if turned else held


def requantized(weight: Tensor, form: Quantization) -> Tensor:
    """Return a weight as bitsandbytes would hold it, dequantized to float32.

    Args:
        weight: (outputs, inputs).
        form: How it is held.
    """
    settings: Any = quantization_config(form, torch.float32)
    modules: Any = importlib.import_module(f"{LIBRARY}.nn")
    outputs, inputs = weight.shape
    if form == "int8":
        layer = modules.Linear8bitLt(inputs, outputs, bias=False, has_fp16_weights=False)
        layer.weight = modules.Int8Params(weight.detach().half().cpu(), requires_grad=False, has_fp16_weights=False)
    else:
        kind = {
            "quant_type": settings.bnb_4bit_quant_type,
            "compress_statistics": settings.bnb_4bit_use_double_quant,
        }
        layer = modules.Linear4bit(inputs, outputs, bias=False, **kind)
        layer.weight = modules.Params4bit(weight.detach().cpu(), requires_grad=False, **kind)
    # Both quantize when they are moved to where they compute.
    return values(layer.to(weight.device)).float()
