"""Matrices that can be pruned: LoRA factors, merged updates, or whole weights."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from mithridate.errors import DefenseError
from mithridate.repair.target import Lora, has_lora, is_transposed, linear_layers, lora_layers


class Prunable(NamedTuple):
    """One matrix to rank and prune.

    Attributes:
        name: Name of the layer.
        layer: Layer whose input is the activation x.
        values: (outputs, inputs) present values.
        write: Puts pruned values in place.
        parameters: Names of the parameters that ``write`` changes.
    """

    name: str
    layer: nn.Module
    values: Tensor
    write: Callable[[Tensor], None]
    parameters: tuple[str, ...]


@torch.no_grad()
def prunable(model: nn.Module, scope: Literal["adapter", "delta", "weights"]) -> list[Prunable]:
    """The matrices of a scope.

    Raises:
        DefenseError: If the model has no LoRA adapter for the scopes that need one, or a quantized base.
    """
    if scope == "adapter":
        return [factor for lora in lora_layers(model) for factor in _factors(lora)]
    if scope == "delta":
        return [_merged(lora, with_base=False) for lora in lora_layers(model)]
    loras = {lora.name: lora for lora in lora_layers(model)} if has_lora(model) else {}
    return [
        _merged(loras[name], with_base=True) if name in loras else _whole(name, layer)
        for name, layer in linear_layers(model).items()
    ]


def _factors(lora: Lora) -> list[Prunable]:
    pairs = (("lora_A", lora.first), ("lora_B", lora.second))
    factors = []
    for kind, layer in pairs:
        name = f"{lora.name}.{kind}.{lora.adapter}"
        factors.append(_whole(name, layer))
    return factors


def _whole(name: str, layer: nn.Module) -> Prunable:
    weight = _floating(name, layer)
    turned = is_transposed(layer)

    def write(pruned: Tensor) -> None:
        weight.copy_(pruned.T if turned else pruned)

    values = weight.T if turned else weight
    return Prunable(name, layer, values.detach().clone(), write, (f"{name}.weight",))


def _merged(lora: Lora, with_base: bool) -> Prunable:
    """ΔW, or W + ΔW; writing puts the result into the base weight and empties the adapter."""
    base = lora.module.get_base_layer()
    weight = _floating(lora.name, base)
    turned = is_transposed(base)
    original = weight.detach().clone()
    delta = lora.delta().to(weight.dtype)
    values = original + delta if with_base else delta

    def write(pruned: Tensor) -> None:
        update = pruned.T if turned else pruned
        weight.copy_(update if with_base else original + update)
        lora.second.weight.zero_()

    names = (f"{lora.name}.base_layer.weight", f"{lora.name}.lora_B.{lora.adapter}.weight")
    return Prunable(lora.name, lora.module, (values.T if turned else values).clone(), write, names)


def _floating(name: str, layer: nn.Module) -> Tensor:
    weight: Tensor = layer.weight.data  # type: ignore[assignment]
    if not weight.is_floating_point():
        raise DefenseError(f"{name} is quantized ({weight.dtype}); use scope='adapter' or load the base in bf16")
    return weight
