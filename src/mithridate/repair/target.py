"""The weights and layers that a post-tuning defense acts on, found by structure."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mithridate.errors import DefenseError, ModelError
from mithridate.training.decoder import layer_of
from mithridate.training.weights import Weights


class Lora(NamedTuple):
    """The LoRA factors on one linear layer: ΔW = scale · B·A.

    Attributes:
        name: Name of the linear layer.
        module: PEFT's layer, whose input is the activation x.
        first: A, (rank, inputs).
        second: B, (outputs, rank).
        adapter: Name of the active adapter.
    """

    name: str
    module: Any
    first: nn.Linear
    second: nn.Linear
    adapter: str

    def delta(self) -> Tensor:
        """ΔW in the orientation of the base weight."""
        delta: Tensor = self.module.get_delta_weight(self.adapter)
        return delta


def lora_layers(model: nn.Module) -> list[Lora]:
    """All LoRA layers of the active adapter, in the model's order.

    Raises:
        DefenseError: If the model has no LoRA adapter, several active ones, or a DoRA one.
    """
    layers = []
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        active = [adapter for adapter in module.active_adapters if adapter in module.lora_A]
        if len(active) != 1:
            raise DefenseError(f"{name} has {len(active)} active LoRA adapters; activate exactly one")
        if module.use_dora.get(active[0], False):
            raise DefenseError(f"{name} is a DoRA layer, whose update is not B·A; use a plain LoRA adapter")
        layers.append(Lora(name, module, module.lora_A[active[0]], module.lora_B[active[0]], active[0]))
    if not layers:
        raise DefenseError("the model has no LoRA adapter to repair; give a PEFT model, or use scope='weights'")
    return layers


def has_lora(model: nn.Module) -> bool:
    """Whether LoRA factors are in the model, whether or not PEFT wraps it."""
    return any(".lora_A." in name for name, _ in model.named_parameters())


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Linear layers inside the decoder blocks (the base layer, where LoRA wraps it), by name."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if layer_of(name + ".") is None or ".lora_" in name or name.endswith(".base_layer"):
            continue
        base = module.get_base_layer() if isinstance(module, LoraLayer) else module
        if isinstance(base, (nn.Linear, Conv1D)):
            found[name] = base
    if not found:
        raise ModelError(f"{type(model).__name__} has no linear layers inside numbered decoder blocks")
    return found


def is_transposed(layer: nn.Module) -> bool:
    """Whether the weight is stored as (inputs, outputs), as GPT-2's layers do."""
    return isinstance(layer, Conv1D)


def repairable(model: nn.Module) -> Weights:
    """The weights a post-tuning displacement moves: the active adapter's, or all where there is none."""
    if isinstance(model, PeftModel):
        active = {f".{adapter}." for adapter in model.active_adapters}
        names = [
            name
            for name, _ in model.named_parameters()
            if (".lora_" in name or ".modules_to_save." in name) and any(adapter in name for adapter in active)
        ]
        if not names:
            raise DefenseError("the PEFT model has no active LoRA weights; other adapter types cannot be repaired")
        return Weights(model, names)
    return Weights(model, [n for n, p in model.named_parameters() if p.is_floating_point()])


@contextmanager
def differentiable(model: nn.Module, weights: Weights) -> Iterator[None]:
    """Inside the block only these weights take gradients, and dropout is off."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    training = model.training
    try:
        model.requires_grad_(False)
        for parameter in weights.parameters:
            parameter.requires_grad_(True)
        model.eval()
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)
            parameter.grad = None
        model.train(training)
