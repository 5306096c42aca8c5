"""The weights and layers that a post-tuning defense acts on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mithridate.errors import DefenseError, ModelError
from mithridate.repair.structure import Lora as Lora
from mithridate.repair.structure import is_adapted, sites
from mithridate.repair.structure import is_transposed as is_transposed
from mithridate.training.decoder import layer_of
from mithridate.training.likelihood import evaluating
from mithridate.training.weights import Weights


def all_loras(model: nn.Module) -> list[Lora]:
    """The active LoRA on every layer that has one, DoRA and embeddings too, in the model's order.

    Raises:
        DefenseError: If there is none, or an adapter of another kind, several active ones, or a merged or disabled one.
    """
    found = [site.lora for site in sites(model) if site.lora is not None]
    if not found and has_lora(model):
        raise DefenseError("the model has LoRA adapters, but none is active; activate the one to repair (set_adapter)")
    if not found:
        raise DefenseError("the model has no LoRA adapter to repair; give a PEFT model, or use scope='weights'")
    return found


def lora_layers(model: nn.Module) -> list[Lora]:
    """The same, where every update must be B·A on a linear layer.

    Raises:
        DefenseError: As ``all_loras``, and if a layer is a DoRA one or an embedding.
    """
    found = all_loras(model)
    for lora in found:
        if lora.magnitude is not None:
            raise DefenseError(f"{lora.name} is a DoRA layer, whose update is not B·A; use a plain LoRA adapter")
        if lora.on_embedding:
            raise DefenseError(f"{lora.name} is an embedding, which has no activations as input; use linear layers")
    return found


def products(model: nn.Module) -> list[Lora]:
    """The same, where ΔW = scale·B·A and nothing else.

    Raises:
        DefenseError: As ``lora_layers``, and if a layer's B has a bias.
    """
    found = lora_layers(model)
    for lora in found:
        require_no_bias(lora)
    return found


def require_no_bias(lora: Lora) -> None:
    """Refuse an update that is more than a product.

    Raises:
        DefenseError: If B has a bias.
    """
    if not lora.on_embedding and lora.second.bias is not None:
        raise DefenseError(f"the LoRA on {lora.name} has a bias, so its update is not B·A; use one without lora_bias")


def has_lora(model: nn.Module) -> bool:
    """Whether LoRA factors are in the model, whether or not PEFT wraps it."""
    return any(isinstance(module, LoraLayer) for module in model.modules())


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Linear layers inside the decoder blocks (the base layer, where LoRA wraps it), by name without wrappers.

    Raises:
        ModelError: If there is none.
    """
    found = {
        site.name: site.module
        for site in sites(model)
        if isinstance(site.module, (nn.Linear, Conv1D)) and layer_of(site.name + ".") is not None
    }
    if not found:
        raise ModelError(f"{type(model).__name__} has no linear layers inside numbered decoder blocks")
    return found


def repairable(model: nn.Module) -> Weights:
    """The weights a post-tuning displacement moves: the active adapter's, or all where there is none.

    Raises:
        DefenseError: If there is no active LoRA, or a weight is quantized or offloaded.
    """
    if is_adapted(model):
        chosen = {id(parameter) for parameter in adapter_parameters(model)}
        names = [name for name, parameter in model.named_parameters() if id(parameter) in chosen]
    else:
        require_unquantized(model)
        names = [name for name, parameter in model.named_parameters() if parameter.is_floating_point()]
    weights = Weights(model, names)
    for name, parameter in zip(weights.names, weights.parameters, strict=True):
        require_plain_values(name, parameter)
    return weights


def adapter_parameters(model: nn.Module) -> list[Tensor]:
    """LoRA factors, DoRA's magnitudes and ``modules_to_save`` of the active adapter.

    Raises:
        DefenseError: As ``all_loras``.
    """
    found = [parameter for lora in all_loras(model) for parameter in lora.parameters]
    for site in sites(model):
        if site.saved:
            found += site.module.parameters(recurse=False)
    return found


def require_unquantized(model: nn.Module) -> None:
    """Refuse a model that was loaded quantized.

    Raises:
        DefenseError: If it was.
    """
    if getattr(getattr(model, "config", None), "quantization_config", None) is not None:
        raise DefenseError("the model is quantized, so its weights cannot be changed one by one; load it in bf16")
    for name, parameter in model.named_parameters():
        if type(parameter).__name__ in ("Params4bit", "Int8Params") or parameter.element_size() < 2:
            raise DefenseError(f"{name} is quantized ({parameter.dtype}); load the model in bf16 to change its weights")


def require_plain_values(name: str, parameter: Tensor) -> None:
    """Refuse a weight whose values are not at hand.

    Raises:
        DefenseError: If it is quantized or offloaded.
    """
    if not parameter.is_floating_point() or parameter.element_size() < 2:
        raise DefenseError(f"{name} is quantized ({parameter.dtype}); load the model in bf16 to compare its weights")
    if parameter.is_meta:
        raise DefenseError(f"{name} is offloaded; load the whole model into memory to compare its weights")


def require_sole_adapter(model: nn.Module) -> None:
    """Refuse a model with adapters that are not active, whose base weights would change under them.

    Raises:
        DefenseError: Naming one of them.
    """
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            held = [*module.lora_A, *module.lora_embedding_A]
            idle = [adapter for adapter in held if adapter not in module.active_adapters]
            if idle:
                raise DefenseError(
                    f"the repair rewrites base weights, and {name} also holds the adapter '{idle[0]}', which is not "
                    f"active and would change with them; delete it first (model.delete_adapter('{idle[0]}'))"
                )


@contextmanager
def differentiable(model: nn.Module, weights: Weights) -> Iterator[None]:
    """Inside the block only these weights take gradients, and dropout is off; flags and gradients are put back."""
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    try:
        model.requires_grad_(False)
        for parameter in weights.parameters:
            parameter.requires_grad_(True)
        with evaluating(model), torch.enable_grad():
            yield
    finally:
        for parameter, required, gradient in before:
            parameter.requires_grad_(required)
            parameter.grad = gradient
