"""Matrices that can be pruned: LoRA factors, merged updates, or whole weights."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from mithridate.models.adapter_layers import lora_layers
from mithridate.models.lora import LoraFactors, is_transposed
from mithridate.models.merged_weights import MergedWeights
from mithridate.models.preconditions import require_plain_values
from mithridate.models.undo import overwrite
from mithridate.repair.rewriting import Rewrite
from mithridate.repair.tally import Tally


class Prunable(NamedTuple):
    """One matrix to rank and prune.

    Attributes:
        name: Name of the layer.
        layer: Layer whose input is the activation x.
        read: Returns a copy of the present values, (outputs, inputs) float64.
        put: Puts pruned values, (outputs, inputs) float64, in place and counts what changes.
    """

    name: str
    layer: nn.Module
    read: Callable[[], Tensor]
    put: Callable[[Tensor, Tally], None]


class Prunables(NamedTuple):
    """The matrices of a scope.

    Attributes:
        matrices: The matrices, in the model's order, each under a name of its own.
        weights: The merged weights that they are written to; None for LoRA factors.
        as_stored: Whether each matrix is one of these weights as it is stored, row for row.
    """

    matrices: list[Prunable]
    weights: MergedWeights | None
    as_stored: bool = False


def prunable(
    model: nn.Module, scope: Literal["adapter", "delta", "weights"], merged: Callable[[], MergedWeights]
) -> Prunables:
    """Return the matrices of a scope.

    Args:
        model: The model to prune.
        scope: LoRA factors, merged updates, or whole weights.
        merged: Returns the merged weights of the model.

    Raises:
        DefenseError: If the model has no LoRA adapter for the scopes that need one, or a quantized base or idle
            adapters for those that change whole weights.
    """
    if scope == "adapter":
        return Prunables([factor for lora in lora_layers(model) for factor in _factors(lora)], None)
    # Called for `delta` alone, because it refuses a model without LoRA, whose whole weights can be pruned.
    loras = lora_layers(model) if scope == "delta" else []
    weights = merged()
    if scope == "weights":
        as_stored = not any(map(is_transposed, weights.matrices.values()))
        return Prunables([_whole(weights, name, layer) for name, layer in weights.matrices.items()], weights, as_stored)
    # By identity of the base layer: names of adapters and of plain weights differ.
    updated = {id(lora.base): lora for lora in loras}
    found = [_update(weights, name, updated[id(base)]) for name, base in weights.adapted_layers.items()]
    return Prunables(found, weights)


def _factors(lora: LoraFactors) -> list[Prunable]:
    found = []
    for kind, layer in (("lora_A", lora.first), ("lora_B", lora.second)):
        name = f"{lora.name}.{kind}.{lora.adapter}"
        require_plain_values(name, layer.weight)
        found.append(_factor(name, layer))
    return found


def _factor(name: str, layer: Any) -> Prunable:
    def put(pruned: Tensor, tally: Tally) -> None:
        stored = pruned.to(layer.weight.dtype)
        # Entries that were zero already are pruned, but not changed.
        if tally.add(name, layer.weight.detach(), stored):
            overwrite(layer.weight, stored)

    return Prunable(name, layer, lambda: layer.weight.detach().double(), put)


def _whole(weights: MergedWeights, name: str, layer: nn.Module) -> Prunable:
    """W + ΔW; writing puts the result into the base weight and empties the adapter."""

    def put(pruned: Tensor, tally: Tally) -> None:
        Rewrite(weights, tally).put(name, weights.read(name), weights.turned(name, pruned))

    return Prunable(name, layer, lambda: weights.matrix(name), put)


def _update(weights: MergedWeights, name: str, lora: LoraFactors) -> Prunable:
    """ΔW; writing adds the result to the base weight and empties the adapter."""
    # GPT-2's Conv1D stores (inputs, outputs), while scores are by output row.
    turned = is_transposed(lora.base)

    def read() -> Tensor:
        return lora.delta().T if turned else lora.delta()

    def put(pruned: Tensor, tally: Tally) -> None:
        update = pruned.T if turned else pruned
        Rewrite(weights, tally).put(name, weights.read(name), weights.base(name) + update)

    return Prunable(name, lora.module, read, put)
