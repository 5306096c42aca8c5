"""A model that computes in float32 for a while, whatever its weights are stored in."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Slot(NamedTuple):
    """Where a half-precision parameter or buffer hangs in the model."""

    module: nn.Module
    name: str
    tensor: Tensor


@contextmanager
def in_float32(model: nn.Module) -> Iterator[dict[Tensor, Tensor]]:
    """Inside the block float32 copies stand in the place of half-precision parameters and buffers.

    The originals are not written to, so they come back bit for bit. Weights that are tied stay tied; quantized ones
    are left as they are.

    Yields:
        The copy of each parameter that was half precision.
    """
    slots = [slot for module in model.modules() for slot in _slots(module)]
    copies: dict[Tensor, Tensor] = {}
    try:
        for module, name, tensor in slots:
            if tensor not in copies:
                copies[tensor] = _copy(tensor)
            _hang(module, name, copies[tensor])
        yield copies
    finally:
        for module, name, tensor in slots:
            _hang(module, name, tensor)


def is_half(tensor: Tensor) -> bool:
    """Whether a tensor is bfloat16 or float16."""
    return tensor.dtype in (torch.bfloat16, torch.float16)


def _slots(module: nn.Module) -> list[Slot]:
    held = {**module._parameters, **module._buffers}
    return [Slot(module, name, tensor) for name, tensor in held.items() if tensor is not None and is_half(tensor)]


def _copy(tensor: Tensor) -> Tensor:
    value = tensor.detach().to(torch.float32)
    return nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value


def _hang(module: nn.Module, name: str, tensor: Tensor) -> None:
    where: dict[str, Any] = module._parameters if name in module._parameters else module._buffers
    where[name] = tensor
