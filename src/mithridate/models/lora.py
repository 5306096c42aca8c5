"""The LoRA factors on one layer, and their names among a model's weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mithridate.models.quantized_base import values


def present(tensor: Tensor) -> Tensor:
    """Return the values that a weight has now."""
    return tensor


@dataclass(frozen=True)
class LoraFactors:
    """The active LoRA factors on one layer: ΔW = scale · B·A.

    Attributes:
        name: Name of the layer in the model.
        module: PEFT's layer, whose input is the activation x.
        adapter: Name of the active adapter.
    """

    name: str
    module: Any
    adapter: str

    @property
    def first(self) -> Any:
        """The linear map A, (rank, inputs)."""
        return self.module.lora_A[self.adapter]

    @property
    def second(self) -> Any:
        """The linear map B, (outputs, rank)."""
        return self.module.lora_B[self.adapter]

    @property
    def on_embedding(self) -> bool:
        """Whether the layer is an embedding, whose inputs are tokens."""
        return self.adapter in self.module.lora_embedding_A

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """The weights A, (rank, inputs), and B, (outputs, rank)."""
        if self.on_embedding:
            return self.module.lora_embedding_A[self.adapter], self.module.lora_embedding_B[self.adapter]
        return self.first.weight, self.second.weight

    @property
    def magnitude(self) -> Tensor | None:
        """DoRA's m, (outputs,); None for a plain LoRA."""
        if self.adapter not in self.module.lora_magnitude_vector:
            return None
        magnitude: Tensor = self.module.lora_magnitude_vector[self.adapter].weight
        return magnitude

    @property
    def base(self) -> nn.Module:
        """The layer that LoRA wraps."""
        base: nn.Module = self.module.base_layer
        return base

    @property
    def base_matrix(self) -> Tensor:
        """The weight of the layer that LoRA wraps, as (outputs, inputs); dequantized where it is quantized."""
        weight = values(self.base)
        return weight.T if is_transposed(self.base) else weight

    @property
    def parameters(self) -> list[Tensor]:
        """All of the adapter's parameters on this layer: factors, DoRA's magnitude, and B's bias where it has one."""
        found = list(self.factors) + ([] if self.magnitude is None else [self.magnitude])
        bias = None if self.on_embedding else self.second.bias
        return found + ([] if bias is None else [bias])

    @torch.no_grad()
    def delta(self, of: Callable[[Tensor], Tensor] = present) -> Tensor:
        """scale·B·A in the orientation of the base weight, float64.

        Args:
            of: From a parameter to the values to use.
        """
        # In float64, so that reading and writing back an update does not move it.
        first, second = (of(factor).double() for factor in self.factors)
        product: Tensor = self.module.scaling[self.adapter] * (second @ first)
        return product.T if is_transposed(self.base) else product

    @torch.no_grad()
    def merged(self, base: Tensor, of: Callable[[Tensor], Tensor] = present) -> Tensor:
        """Return the merged weight: V = W + ΔW, or m·V/‖V‖ by output row where the layer is a DoRA one.

        Args:
            base: W, float64.
            of: From a parameter to the values to use.
        """
        total = base + self.delta(of).to(base.device)
        if self.magnitude is None:
            return total
        turned = is_transposed(self.base)
        rows: Tensor = total.T if turned else total
        # DoRA: W' = m · (W + ΔW)/‖W + ΔW‖, with one norm per output row.
        rows = of(self.magnitude).to(rows).unsqueeze(1) / torch.linalg.vector_norm(rows, dim=1, keepdim=True) * rows
        return rows.T if turned else rows


def is_transposed(layer: nn.Module) -> bool:
    """Return whether the weight is stored as (inputs, outputs), as GPT-2's layers and embeddings do."""
    return isinstance(layer, (Conv1D, nn.Embedding))


_OF_LAYERS = ("lora_A", "lora_B", "lora_magnitude_vector")
_OF_EMBEDDINGS = ("lora_embedding_A", "lora_embedding_B")
"""What PEFT calls an adapter's parts, followed by the adapter's name and ``weight``, or by the name alone."""


def is_factor(name: str) -> bool:
    """Return whether a weight is one of LoRA's: ``….lora_A.<adapter>.weight`` and so on, for any adapter name."""
    parts = name.split(".")
    # Layers hold a module per adapter (….lora_A.default.weight), embeddings a parameter (….lora_embedding_A.default).
    return "".join(parts[-3:-2]) in _OF_LAYERS or "".join(parts[-2:-1]) in _OF_EMBEDDINGS


def matching_a(name: str) -> str | None:
    """Return the name of the A that goes with a B; None for any other weight."""
    parts = name.split(".")
    if parts[-3:-2] != ["lora_B"] or parts[-1] != "weight":
        return None
    return ".".join([*parts[:-3], "lora_A", *parts[-2:]])
