"""Outputs of a model's layers, read and added to by hooks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mithridate.errors import DefenseError


@contextmanager
def captured(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Inside the block one forward pass fills the list with the modules' outputs, in order."""
    found: dict[int, Tensor] = {}
    outputs: list[Tensor] = []

    def keep(number: int) -> Any:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            found[number] = _tensor(output)

        return hook

    handles = [module.register_forward_hook(keep(number)) for number, module in enumerate(modules)]
    try:
        yield outputs
        # A layer that PEFT has merged, or a replaced forward, is called past its hooks and would leave a hole.
        missed = [number for number in range(len(modules)) if number not in found]
        if missed:
            raise DefenseError(
                f"no activation came out of {type(modules[missed[0]]).__name__} number {missed[0]}; "
                "the defense needs a model whose layers all run, with its adapter enabled and not merged"
            )
        outputs.extend(found[number] for number in range(len(modules)))
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def shifted(modules: Sequence[nn.Module], shifts: Sequence[Tensor | None]) -> Iterator[Iterable[Tensor]]:
    """Inside the block each module's output gets a shift added; None stands for a zero that is differentiated by.

    The block must hold one forward pass and its backward pass, which may compute activations anew.

    Yields:
        The shifts that were added, in the order of the modules, filled in as they run.
    """
    used: dict[int, Tensor] = {}

    def add(number: int) -> Any:
        def hook(_: nn.Module, args: Any, output: Any) -> Any:
            before, given = _tensor(output), shifts[number]
            # A recomputation in the backward pass must add the very tensor that the forward pass added.
            if number not in used:
                used[number] = torch.zeros_like(before, requires_grad=True) if given is None else given.to(before.dtype)
            # Out of place: the layer's own output may be kept for its backward pass.
            moved = before + used[number]
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        return hook

    handles = [module.register_forward_hook(add(number)) for number, module in enumerate(modules)]
    try:
        yield _InOrder(used)
    finally:
        for handle in handles:
            handle.remove()


class _InOrder:
    """The values of a dictionary by rising key, as it is when it is asked."""

    def __init__(self, values: Mapping[int, Tensor]) -> None:
        self._values = values

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._values[number] for number in sorted(self._values))


def require_recomputable(model: nn.Module) -> None:
    """Refuse reentrant checkpointing, whose first forward pass leaves no activations to hold or differentiate by.

    Raises:
        DefenseError: If a module of the model has it switched on.
    """
    for name, module in model.named_modules():
        # transformers keeps the function there once checkpointing is switched on; it has no public flag per module.
        recompute = module.__dict__.get("_gradient_checkpointing_func")
        if recompute is None or not module.gradient_checkpointing:
            continue
        if recompute.keywords.get("use_reentrant", True):
            raise DefenseError(
                f"{name} has reentrant activation checkpointing, under which the defense cannot read or change "
                "activations; leave use_reentrant unset or set it to False"
            )


def _tensor(output: Any) -> Tensor:
    # Attention blocks, and in older transformers decoder blocks, return their output first in a tuple.
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found
