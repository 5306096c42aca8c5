"""What TRL does to an adapter on a quantized base that a defense must undo or refuse."""

from typing import Any

import torch
from torch import Tensor

from mithridate.errors import UsageError
from mithridate.models.quantized_base import keep_differentiable, quantized_layers
from mithridate.models.submodules import is_adapted

Values = dict[str, Tensor]
"""Trainable weights by name."""


def adapter_given(model: Any, kwargs: dict[str, Any]) -> Values:
    """Return copies of the adapter's weights where a quantized model comes with one, before TRL rounds them.

    Args:
        model: What the trainer was given.
        kwargs: TRL's other arguments.

    Raises:
        UsageError: If the base is quantized and nothing could be trained.
    """
    named = isinstance(model, str)
    quantized = kwargs.get("quantization_config") is not None if named else bool(quantized_layers(model))
    if not quantized:
        return {}
    if kwargs.get("peft_config") is None and (named or not is_adapted(model)):
        raise UsageError("the model is quantized, so its weights cannot be trained; pass peft_config to train a LoRA")
    # Without an adapter what can be trained now is embeddings and norms, which a new adapter freezes.
    if named or not is_adapted(model):
        return {}
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}


def settle_quantized(trainer: Any, given: Values) -> None:
    """Give an adapter on a quantized base its own type back, and have the base differentiated soundly.

    TRL stores such an adapter in bfloat16. An optimizer's step or a displacement below 1/256 of a weight would then be
    lost, and an adapter that comes from an earlier stage would be rounded.

    Args:
        trainer: TRL's trainer.
        given: What `adapter_given` returned.

    Raises:
        ModelError: If bitsandbytes has repacked weights.
    """
    if not quantized_layers(trainer.model):
        return
    keep_differentiable(trainer.model)
    for name, weight in trainer.model.named_parameters():
        if name in given:
            weight.data = given[name]
        elif weight.requires_grad and weight.dtype == torch.bfloat16:
            # A new adapter, which PEFT makes in float32.
            weight.data = weight.data.float()
