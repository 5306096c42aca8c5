"""Where PEFT's wrappers lie in a model, found by their classes: names of adapters and modules decide nothing."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import MultiheadAttention, ParamWrapper
from peft.tuners.lora.variants import DoraEmbeddingVariant, DoraLinearVariant
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import Tensor, nn

from mithridate.errors import DefenseError
from mithridate.models.lora import LoraFactors


class Submodule(NamedTuple):
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
    lora: LoraFactors | None
    saved: bool


def submodules(model: nn.Module) -> list[Submodule]:
    """Return the modules that run, in the order of the model without wrappers, each once.

    Raises:
        DefenseError: If it holds an adapter other than LoRA or DoRA, or one that is merged or disabled, or a layer
            has several active ones.
    """
    # A module may hang in the model twice, as tied blocks do.
    seen: set[int] = set()
    found = []
    for submodule in _walk(model, "", "", False):
        if id(submodule.module) not in seen:
            seen.add(id(submodule.module))
            found.append(submodule)
    return found


def is_adapted(model: nn.Module) -> bool:
    """Return whether PEFT wraps the model or any part of it."""
    return any(isinstance(m, (PeftModel, BaseTunerLayer, AuxiliaryTrainingWrapper)) for m in model.modules())


def _walk(module: nn.Module, name: str, path: str, saved: bool) -> Iterator[Submodule]:
    if isinstance(module, PeftModel):
        if not isinstance(module.base_model, BaseTuner):
            raise DefenseError(f"the model's adapter is a {type(module).__name__} without LoRA; {_OTHER}")
        yield from _walk(module.base_model.model, name, _join(path, "base_model.model"), saved)
    elif isinstance(module, LoraLayer):
        inner = _join(path, "base_layer")
        # PEFT allows it, but then ΔW is not B·A of one adapter.
        if isinstance(module.base_layer, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            raise DefenseError(f"{path} has an adapter within an adapter; merge the inner one first")
        yield Submodule(name, inner, module.base_layer, _lora(path, module), saved)
    elif isinstance(module, ModulesToSaveWrapper):
        yield from _walk_saved(module, name, path, saved)
    elif isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
        kind = type(module).__module__.removeprefix("peft.tuners.")
        raise DefenseError(f"{path} is wrapped by PEFT's {kind}.{type(module).__name__}; {_OTHER}")
    else:
        yield Submodule(name, path, module, None, saved)
        for child, inner_module in module.named_children():
            yield from _walk(inner_module, _join(name, child), _join(path, child), saved)


def _walk_saved(wrapper: Any, name: str, path: str, saved: bool) -> Iterator[Submodule]:
    if wrapper.disable_adapters:
        raise DefenseError(f"the adapter on {path} is disabled; enable it first")
    # `modules_to_save` replaces a module by a trained copy; the original does not run then.
    active = wrapper.active_adapters
    if active and all(adapter in wrapper.modules_to_save for adapter in active):
        inner = _join(path, f"modules_to_save.{active[0]}")
        yield from _walk(wrapper.modules_to_save[active[0]], name, inner, True)
    else:
        yield from _walk(wrapper.original_module, name, _join(path, "original_module"), saved)


def _lora(path: str, module: Any) -> LoraFactors | None:
    """Return the active adapter on a layer; None if the layer has only inactive ones."""
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
    return LoraFactors(path, module, active[0])


def _has_matrices(module: Any, adapter: str) -> bool:
    factors = module.lora_embedding_A if adapter in module.lora_embedding_A else module.lora_A
    weight: Tensor = factors[adapter] if isinstance(factors[adapter], Tensor) else factors[adapter].weight
    return weight.dim() == 2


def _join(path: str, child: str) -> str:
    return f"{path}.{child}" if path else child


_OTHER = "other adapter types cannot be repaired; use plain LoRA or DoRA, or merge it first"
