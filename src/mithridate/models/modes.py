"""Modes a model is put in for a while: evaluation, float32, undisturbed by its caller."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from mithridate.models.quantized_base import computing_in_float32, prevent_repacking


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside the block dropout is off; each module's own mode is restored after it."""
    # Module by module: a caller may keep a part in evaluation mode while it trains the rest.
    before = [(module, module.training) for module in model.modules()]
    prevent_repacking(model)
    try:
        model.eval()
        yield
    finally:
        for module, training in before:
            module.training = training


def drops(model: nn.Module) -> bool:
    """Return whether two passes of the model over the same rows may differ, as with dropout in training."""
    return any(
        module.training and any(isinstance(value, float) and value > 0 for value in _rates(module))
        for module in model.modules()
    )


def _rates(module: nn.Module) -> Iterator[Any]:
    """Return the rates of a module's own dropout and noise; attention holds its rate in no module."""
    # PEFT has dropout of its own, and keeps the rates of some adapters by their names.
    if isinstance(module, _DropoutNd) or "Dropout" in type(module).__name__:
        yield getattr(module, "p", None)
    for name, value in vars(module).items():
        if "drop" in name or "jitter" in name:
            yield from value.values() if isinstance(value, dict) else (value,)


@contextmanager
def undisturbed(models: Iterable[nn.Module]) -> Iterator[None]:
    """Inside the block the caller's autocast and gradient modes do not act; flags and gradients are restored after it.

    Flags are each module's ``training`` and each parameter's ``requires_grad``; gradients are the caller's ``.grad``.
    """
    models = list(models)
    modes = [(module, module.training) for model in models for module in model.modules()]
    flags = [(p, p.requires_grad, p.grad) for model in models for p in model.parameters()]
    devices = {parameter.device.type for parameter, _, _ in flags}
    try:
        with ExitStack() as off:
            # A repair may be called inside torch.no_grad, inference_mode or autocast, under which it would act on other
            # values.
            off.enter_context(torch.inference_mode(False))
            off.enter_context(torch.enable_grad())
            for device in devices - {"meta"}:
                off.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, required, gradient in flags:
            parameter.requires_grad_(required)
            parameter.grad = gradient


@contextmanager
def in_float32(model: nn.Module) -> Iterator[dict[Tensor, Tensor]]:
    """Inside the block float32 copies stand in the place of half-precision parameters and buffers.

    The originals are not written to, so they come back bit for bit. Weights that are tied stay tied; quantized ones
    are left as they are, and layers of 4 bits compute in float32.

    Yields:
        The copy of each parameter that was half precision.
    """
    slots = [slot for module in model.modules() for slot in _slots(module)]
    copies: dict[Tensor, Tensor] = {}
    try:
        for module, name, tensor in slots:
            # Tied parameters are one tensor in several places, and must stay one.
            if tensor not in copies:
                copies[tensor] = _copy(tensor)
            _set(module, name, copies[tensor])
        with computing_in_float32(model):
            yield copies
    finally:
        for module, name, tensor in slots:
            _set(module, name, tensor)


class _Slot(NamedTuple):
    """A half-precision parameter or buffer, and the module that holds it."""

    module: nn.Module
    name: str
    tensor: Tensor


def is_half(tensor: Tensor) -> bool:
    """Return whether a tensor is bfloat16 or float16."""
    return tensor.dtype in (torch.bfloat16, torch.float16)


def _slots(module: nn.Module) -> list[_Slot]:
    tensors = {**module._parameters, **module._buffers}
    # Weights that stay on disk have no values to copy.
    return [
        _Slot(module, name, tensor)
        for name, tensor in tensors.items()
        if tensor is not None and is_half(tensor) and not tensor.is_meta
    ]


def _copy(tensor: Tensor) -> Tensor:
    value = tensor.detach().to(torch.float32)
    return nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value


def _set(module: nn.Module, name: str, tensor: Tensor) -> None:
    where: dict[str, Any] = module._parameters if name in module._parameters else module._buffers
    where[name] = tensor
