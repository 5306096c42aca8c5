"""The weights and layers that a post-tuning defense acts on."""

from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mithridate.errors import DefenseError, ModelError
from mithridate.models.decoder import layer_of
from mithridate.models.lora import LoraFactors
from mithridate.models.requirements import require_no_bias
from mithridate.models.submodules import submodules


def all_loras(model: nn.Module) -> list[LoraFactors]:
    """Return the active LoRA on every layer that has one, DoRA and embeddings too, in the model's order.

    Raises:
        DefenseError: If there is none, or an adapter of another kind, several active ones, or a merged or disabled one.
    """
    found = [submodule.lora for submodule in submodules(model) if submodule.lora is not None]
    # Both are without effect now, but the remedies differ.
    if not found and has_lora(model):
        raise DefenseError("the model has LoRA adapters, but none is active; activate the one to repair (set_adapter)")
    if not found:
        raise DefenseError("the model has no LoRA adapter to repair; give a PEFT model, or use scope='weights'")
    return found


def lora_layers(model: nn.Module) -> list[LoraFactors]:
    """Return the active LoRA layers, all of which must be linear with an update B·A.

    Raises:
        DefenseError: As ``all_loras`` does, and if a layer is a DoRA one or an embedding.
    """
    found = all_loras(model)
    for lora in found:
        # Under DoRA the merged weight is m·V/‖V‖ with V = W + B·A, which no change of B·A alone can describe.
        if lora.magnitude is not None:
            raise DefenseError(f"{lora.name} is a DoRA layer, whose update is not B·A; use a plain LoRA adapter")
        if lora.on_embedding:
            raise DefenseError(f"{lora.name} is an embedding, which has no activations as input; use linear layers")
    return found


def plain_lora_layers(model: nn.Module) -> list[LoraFactors]:
    """Return the active LoRA layers, all of which must be linear with ΔW = scale·B·A and nothing else.

    Raises:
        DefenseError: As ``lora_layers`` does, and if a layer's B has a bias.
    """
    found = lora_layers(model)
    for lora in found:
        require_no_bias(lora)
    return found


def has_lora(model: nn.Module) -> bool:
    """Return whether LoRA factors are in the model, whether or not PEFT wraps it."""
    return any(isinstance(module, LoraLayer) for module in model.modules())


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the linear layers inside the decoder blocks (under LoRA the base layers), by name without wrappers.

    Raises:
        ModelError: If there is none.
    """
    found = {
        submodule.name: submodule.module
        for submodule in submodules(model)
        # The dot ends the number: names of modules, unlike those of weights, may stop there.
        if isinstance(submodule.module, (nn.Linear, Conv1D)) and layer_of(submodule.name + ".") is not None
    }
    if not found:
        raise ModelError(f"{type(model).__name__} has no linear layers inside numbered decoder blocks")
    return found


def adapter_parameters(model: nn.Module) -> list[Tensor]:
    """LoRA factors, DoRA's magnitudes and ``modules_to_save`` of the active adapter.

    Raises:
        DefenseError: As ``all_loras`` does.
    """
    found = [parameter for lora in all_loras(model) for parameter in lora.parameters]
    for submodule in submodules(model):
        if submodule.saved:
            found += submodule.module.parameters(recurse=False)
    return found
