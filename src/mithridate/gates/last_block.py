"""Every row's gradient over linear layers of the last decoder block, compared with a direction and never made.

A linear layer's gradient for row i is G_i = Σ_t g_t·a_tᵀ, a_t its input and g_t the loss's gradient by its output at
token t. So for a direction D

    ⟨G_i, D⟩ = Σ_t g_tᵀ·D·a_t,        ‖G_i‖² = Σ_t,s (g_t·g_s)(a_t·a_s),

and no gradient of a row is ever held. Only the last block is differentiated, from its input on. Cost: a backward pass
through one block and the output head, and memory for D: as many numbers as the layers have weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mithridate.errors import GateError
from mithridate.models.batches import Batch
from mithridate.models.decoder import Decoder
from mithridate.models.fused_head import own_tokens

LastBlockPart = Literal["attention", "mlp"]


class Through(NamedTuple):
    """What went through one linear layer, each (rows, tokens, features)."""

    inputs: Tensor
    outputs: Tensor


Traced = dict[int, Through]
"""By the layer's number."""


class LastBlock:
    """The linear layers of a part of the last block.

    Args:
        decoder: The model's parts.
        part: Whose linear layers.

    Attributes:
        direction: D, one (outputs, inputs) per layer; set before rows are compared with it.

    Raises:
        GateError: If it has no linear layers.
    """

    def __init__(self, decoder: Decoder, part: LastBlockPart) -> None:
        self._block = decoder.blocks[-1]
        self._layers = _linear_layers((decoder.attention if part == "attention" else decoder.mlp)[-1])
        if not self._layers:
            raise GateError(f"the last block's {part} has no linear layers, whose gradients the gate compares")
        self.direction: list[Tensor] | None = None

    @contextmanager
    def traced(self) -> Iterator[Traced]:
        """Inside the block a forward pass is differentiable from the last block on, and fills the dictionary."""
        found: Traced = {}

        def keep(number: int) -> Any:
            def hook(_: nn.Module, args: Any, output: Tensor) -> None:
                found[number] = Through(args[0].detach(), output)

            return hook

        with ExitStack() as hooks:
            hooks.callback(self._block.register_forward_pre_hook(_begin, with_kwargs=True).remove)
            for number, layer in enumerate(self._layers):
                hooks.callback(layer.register_forward_hook(keep(number)).remove)
            yield found

    def gradient(self, traced: Traced, nll: Tensor, batch: Batch) -> list[Tensor]:
        """Return Σ_i G_i of a batch, one (outputs, inputs) per layer.

        Args:
            traced: What `traced` yielded.
            nll: (rows,) loss of each row.
            batch: The rows.
        """
        return [torch.einsum("rto,rti->oi", g, a) for a, g in self._passed(traced, nll, batch)]

    def match(self, traced: Traced, nll: Tensor, batch: Batch) -> Tensor:
        """(rows,) ⟨G_i, D⟩/(‖G_i‖·‖D‖), 0 for a row without a gradient.

        Args:
            traced: What `traced` yielded.
            nll: (rows,) loss of each row.
            batch: The rows.
        """
        assert self.direction is not None
        inner, square = torch.zeros(()), torch.zeros(())
        for (a, g), along in zip(self._passed(traced, nll, batch), self.direction, strict=True):
            inner = inner.to(a) + torch.einsum("rto,oi,rti->r", g, along.to(a), a)
            square = square.to(a) + ((g @ g.mT) * (a @ a.mT)).sum(dim=(1, 2))
        length = square.clamp(min=0).sqrt() * torch.stack([(d * d).sum() for d in self.direction]).sum().sqrt().to(
            inner
        )
        # NaN stays NaN and stops the gate; only an exact zero has no direction.
        return torch.where(length == 0, torch.zeros_like(inner), inner / length)

    def _passed(self, traced: Traced, nll: Tensor, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (inputs, gradient by outputs) of each layer in float32."""
        if len(traced) != len(self._layers):
            raise GateError(
                "a linear layer of the last block did not run, so no gradient of it is known; unmerge the adapter"
            )
        passed = [traced[number] for number in range(len(self._layers))]
        gradients = torch.autograd.grad(nll.sum(), [one.outputs for one in passed])
        for one, gradient in zip(passed, gradients, strict=True):
            yield own_tokens(one.inputs, batch).float(), own_tokens(gradient, batch).float()


def _linear_layers(owner: nn.Module) -> list[nn.Module]:
    adapters = {id(inner) for m in owner.modules() if isinstance(m, LoraLayer) for inner in _added(m)}
    # An adapter adds to its layer's output, so the gradient by that output is the same with it and without.
    return [m for m in owner.modules() if isinstance(m, nn.Linear | Conv1D) and id(m) not in adapters]


def _added(layer: LoraLayer) -> Iterator[nn.Module]:
    for factors in (layer.lora_A, layer.lora_B):
        yield from factors.values()


def _begin(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    """Cut the graph in front of the block, so that nothing before it is differentiated."""
    if args:
        return (args[0].detach().requires_grad_(True), *args[1:]), kwargs
    return args, kwargs | {"hidden_states": kwargs["hidden_states"].detach().requires_grad_(True)}
