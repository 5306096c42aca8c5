"""Where PEFT's wrappers lie in a model, found by their classes: names of adapters and modules decide nothing."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import MultiheadAttention, ParamWrapper
from peft.tuners.lora.variants import DoraEmbeddingVariant, DoraLinearVariant
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mithridate.errors import DefenseError


def present(tensor: Tensor) -> Tensor:
    """The values that a weight has now."""
    return tensor


@dataclass(frozen=True)
class Lora:
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
        first, second = (of(factor).double() for factor in self.factors)
        product: Tensor = self.module.scaling[self.adapter] * (second @ first)
        return product.T if is_transposed(self.base) else product

    @torch.no_grad()
    def merged(self, base: Tensor, of: Callable[[Tensor], Tensor] = present) -> Tensor:
        """The effective weight: V = W + ΔW, or m·V/‖V‖ by output row where the layer is a DoRA one.

        Args:
            base: W, float64.
            of: From a parameter to the values to use.
        """
        total = base + self.delta(of).to(base.device)
        if self.magnitude is None:
            return total
        turned = is_transposed(self.base)
        rows: Tensor = total.T if turned else total
        rows = of(self.magnitude).to(rows).unsqueeze(1) / torch.linalg.vector_norm(rows, dim=1, keepdim=True) * rows
        return rows.T if turned else rows


class Site(NamedTuple):
    """A module that runs.

    Attributes:
        name: Its name in the model without PEFT's wrappers.
        path: Its name in the model.
        module: The module; the base layer, where LoRA wraps it.
        lora: The LoRA on it; None if there is none.
        saved: Whether it is one of the adapter's ``modules_to_save``.
    """

    name: str
    path: str
    module: nn.Module
    lora: Lora | None
    saved: bool


def sites(model: nn.Module) -> list[Site]:
    """The modules that run, in the order of the model without wrappers, each once.

    Raises:
        DefenseError: If it holds an adapter other than LoRA or DoRA, or one that is merged or disabled, or a layer
            has several active ones.
    """
    seen: set[int] = set()
    found = []
    for site in _walk(model, "", "", False):
        if id(site.module) not in seen:
            seen.add(id(site.module))
            found.append(site)
    return found


def is_adapted(model: nn.Module) -> bool:
    """Whether PEFT wraps the model or any part of it."""
    return any(isinstance(m, (PeftModel, BaseTunerLayer, AuxiliaryTrainingWrapper)) for m in model.modules())


def is_transposed(layer: nn.Module) -> bool:
    """Whether the weight is stored as (inputs, outputs), as GPT-2's layers and embeddings do."""
    return isinstance(layer, (Conv1D, nn.Embedding))


_OF_LAYERS = ("lora_A", "lora_B", "lora_magnitude_vector")
_OF_EMBEDDINGS = ("lora_embedding_A", "lora_embedding_B")
"""What PEFT calls an adapter's parts, followed by the adapter's name and ``weight``, or by the name alone."""


def is_factor(name: str) -> bool:
    """Whether a weight is one of LoRA's: ``….lora_A.<adapter>.weight`` and so on, whatever the adapter is called."""
    parts = name.split(".")
    return "".join(parts[-3:-2]) in _OF_LAYERS or "".join(parts[-2:-1]) in _OF_EMBEDDINGS


def partner(name: str) -> str | None:
    """Name of the A that goes with a B; None for what is no B."""
    parts = name.split(".")
    if parts[-3:-2] != ["lora_B"] or parts[-1] != "weight":
        return None
    return ".".join([*parts[:-3], "lora_A", *parts[-2:]])


def _walk(module: nn.Module, name: str, path: str, saved: bool) -> Iterator[Site]:
    if isinstance(module, PeftModel):
        if not isinstance(module.base_model, BaseTuner):
            raise DefenseError(f"the model's adapter is a {type(module).__name__} without LoRA; {_OTHER}")
        yield from _walk(module.base_model.model, name, _join(path, "base_model.model"), saved)
    elif isinstance(module, LoraLayer):
        inner = _join(path, "base_layer")
        if isinstance(module.base_layer, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            raise DefenseError(f"{path} has an adapter within an adapter; merge the inner one first")
        yield Site(name, inner, module.base_layer, _lora(path, module), saved)
    elif isinstance(module, ModulesToSaveWrapper):
        yield from _walk_saved(module, name, path, saved)
    elif isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
        kind = type(module).__module__.removeprefix("peft.tuners.")
        raise DefenseError(f"{path} is wrapped by PEFT's {kind}.{type(module).__name__}; {_OTHER}")
    else:
        yield Site(name, path, module, None, saved)
        for child, inner_module in module.named_children():
            yield from _walk(inner_module, _join(name, child), _join(path, child), saved)


def _walk_saved(wrapper: Any, name: str, path: str, saved: bool) -> Iterator[Site]:
    if wrapper.disable_adapters:
        raise DefenseError(f"the adapter on {path} is disabled; enable it first")
    active = wrapper.active_adapters
    if active and all(adapter in wrapper.modules_to_save for adapter in active):
        inner = _join(path, f"modules_to_save.{active[0]}")
        yield from _walk(wrapper.modules_to_save[active[0]], name, inner, True)
    else:
        yield from _walk(wrapper.original_module, name, _join(path, "original_module"), saved)


def _lora(path: str, module: Any) -> Lora | None:
    """The active adapter on a layer; None if the layer has only inactive ones."""
    active = [name for name in module.active_adapters if name in module.lora_A or name in module.lora_embedding_A]
    if module.merged or module.disable_adapters:
        raise DefenseError(f"the adapter on {path} is merged or disabled; unmerge and enable it first")
    if len(active) > 1:
        raise DefenseError(f"{path} has {len(active)} active LoRA adapters; activate exactly one")
    if not active:
        return None
    variant = module.lora_variant.get(active[0])
    if variant is not None and not isinstance(variant, (DoraLinearVariant, DoraEmbeddingVariant)):
        raise DefenseError(f"the LoRA on {path} is a {type(variant).__name__}; {_OTHER}")
    if isinstance(module, (ParamWrapper, MultiheadAttention)) or not _has_matrices(module, active[0]):
        raise DefenseError(f"the LoRA on {path} is a {type(module).__name__}, which is no linear layer; {_OTHER}")
    return Lora(path, module, active[0])


def _has_matrices(module: Any, adapter: str) -> bool:
    factors = module.lora_embedding_A if adapter in module.lora_embedding_A else module.lora_A
    weight: Tensor = factors[adapter] if isinstance(factors[adapter], Tensor) else factors[adapter].weight
    return weight.dim() == 2


def _join(path: str, child: str) -> str:
    return f"{path}.{child}" if path else child


_OTHER = "other adapter types cannot be repaired; use plain LoRA or DoRA, or merge it first"
