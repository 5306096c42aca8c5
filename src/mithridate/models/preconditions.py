"""What a model must be so that its weights can be trained, compared or changed; refused in one sentence otherwise."""

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mithridate.errors import DefenseError, ModelError
from mithridate.models.lora import LoraFactors


def check_finite(model: nn.Module) -> None:
    """Refuse weights that hold NaN or Inf.

    Raises:
        ModelError: Naming the first such weight.
    """
    for name, weight in model.named_parameters():
        # Offloaded weights have no values here, and quantized ones cannot hold NaN.
        if weight.is_meta or not weight.is_floating_point():
            continue
        # NaN and Inf survive a sum, which is much cheaper than a test of every entry.
        if not bool(weight.detach().sum(dtype=torch.float32).isfinite()) and not _all_finite(weight):
            raise ModelError(f"the weights hold NaN or Inf ({name}): load or train the model again")


def _all_finite(weight: Tensor) -> bool:
    """Return whether every entry is finite; the cheaper sum can overflow on finite weights."""
    return bool(weight.detach().float().isfinite().all())


def require_no_bias(lora: LoraFactors) -> None:
    """Refuse an update that is more than a product.

    Raises:
        DefenseError: If B has a bias.
    """
    if not lora.on_embedding and lora.second.bias is not None:
        raise DefenseError(f"the LoRA on {lora.name} has a bias, so its update is not B·A; use one without lora_bias")


def require_unquantized(model: nn.Module) -> None:
    """Refuse a model that was loaded quantized.

    Raises:
        DefenseError: If it was.
    """
    if getattr(getattr(model, "config", None), "quantization_config", None) is not None:
        raise DefenseError("the model is quantized, so its weights cannot be changed one by one; load it in bf16")
    for name, parameter in model.named_parameters():
        # bitsandbytes' classes by name, since it need not be installed.
        if type(parameter).__name__ in ("Params4bit", "Int8Params") or parameter.element_size() < 2:
            raise DefenseError(f"{name} is quantized ({parameter.dtype}); load the model in bf16 to change its weights")


def require_plain_values(name: str, parameter: Tensor) -> None:
    """Refuse a weight whose values are not at hand.

    Raises:
        DefenseError: If it is quantized, offloaded, or split over processes.
    """
    if not parameter.is_floating_point() or parameter.element_size() < 2:
        raise DefenseError(f"{name} is quantized ({parameter.dtype}); load the model in bf16 to compare its weights")
    if parameter.is_meta:
        raise DefenseError(f"{name} is offloaded; load the whole model into memory to compare its weights")
    if isinstance(parameter, DTensor):
        raise DefenseError(
            f"{name} is split over processes (FSDP2); call trainer.save_model() on all of them, repair the saved model"
        )


def require_sole_adapter(model: nn.Module) -> None:
    """Refuse a model with adapters that are not active, whose base weights would change under them.

    Raises:
        DefenseError: Naming one of them.
    """
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            # An idle adapter was trained on top of the old base weights and would be broken by new ones.
            held = [*module.lora_A, *module.lora_embedding_A]
            idle = [adapter for adapter in held if adapter not in module.active_adapters]
            if idle:
                raise DefenseError(
                    f"the repair rewrites base weights, and {name} also holds the adapter '{idle[0]}', which is not "
                    f"active and would change with them; delete it first (model.delete_adapter('{idle[0]}'))"
                )
