"""The weights that a post-tuning displacement moves."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mithridate.models.adapter_layers import adapter_parameters
from mithridate.models.modes import evaluating
from mithridate.models.requirements import require_plain_values, require_unquantized
from mithridate.models.submodules import is_adapted
from mithridate.training.trainable import Weights


def repairable(model: nn.Module) -> Weights:
    """Return the weights a post-tuning displacement moves: the active adapter's, or all where there is none.

    Raises:
        DefenseError: If there is no active LoRA, or a weight is quantized or offloaded.
    """
    if is_adapted(model):
        # By identity, because PEFT's names contain the adapter's, which may be anything.
        chosen = {id(parameter) for parameter in adapter_parameters(model)}
        names = [name for name, parameter in model.named_parameters() if id(parameter) in chosen]
    else:
        require_unquantized(model)
        names = [name for name, parameter in model.named_parameters() if parameter.is_floating_point()]
    weights = Weights(model, names)
    for name, parameter in zip(weights.names, weights.parameters, strict=True):
        require_plain_values(name, parameter)
    return weights


@contextmanager
def differentiable(model: nn.Module, weights: Weights) -> Iterator[None]:
    """Inside the block only these weights take gradients, without dropout; flags and gradients are restored after."""
    # A finished model is often frozen, and a caller's gradients are none of our business.
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
