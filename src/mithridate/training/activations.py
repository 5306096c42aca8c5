"""Outputs of a model's parts: read, differentiated by, and perturbed."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from mithridate.errors import DefenseError


class Perturbation:
    """A vector over activations, with the arithmetic of the papers' equations.

    Each process holds the share of its own rows; norms are taken over all of them.

    Args:
        parts: For each micro-batch one tensor per module, (rows, tokens, features).
        places: Which modules of the part these are.
        processes: Number of processes that share the batch.
        device: Where sums over processes are made.
    """

    def __init__(
        self, parts: Sequence[Sequence[Tensor]], places: Sequence[int], processes: int = 1, device: Any = "cpu"
    ) -> None:
        self.parts = [list(part) for part in parts]
        self.places = list(places)
        self.processes = processes
        self.device = device

    def _like(self, parts: Sequence[Sequence[Tensor]]) -> "Perturbation":
        return Perturbation(parts, self.places, self.processes, self.device)

    def __mul__(self, scale: float) -> "Perturbation":
        return self._like([[scale * tensor for tensor in part] for part in self.parts])

    __rmul__ = __mul__

    def norms(self) -> list[float]:
        """L2 norm of each module's share, over all rows of all micro-batches and processes."""
        squares = torch.zeros(len(self.places), dtype=torch.float64, device=self.device)
        for part in self.parts:
            squares += torch.stack([tensor.double().square().sum() for tensor in part])
        if self.processes > 1:
            distributed.all_reduce(squares)
        return [math.sqrt(square) for square in squares.tolist()]

    def norm(self) -> float:
        """L2 norm over all modules together."""
        return math.sqrt(sum(norm**2 for norm in self.norms()))

    def unit(self) -> "Perturbation":
        """This vector divided by its L2 norm.

        Raises:
            DefenseError: If the norm is zero or not finite, since no direction exists then.
        """
        norm = self.norm()
        if not math.isfinite(norm) or norm == 0.0:
            raise DefenseError(
                f"a gradient over activations with norm {norm} has no direction; "
                "check that its stream has trained tokens and that the loss is finite"
            )
        return (1 / norm) * self


@contextmanager
def captured(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Inside the block one forward pass fills the list with the modules' outputs, in order."""
    found: dict[int, Tensor] = {}
    outputs: list[Tensor] = []

    def keep(place: int) -> Any:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            found[place] = _tensor(output)

        return hook

    handles = [module.register_forward_hook(keep(place)) for place, module in enumerate(modules)]
    try:
        yield outputs
        missed = [place for place in range(len(modules)) if place not in found]
        if missed:
            raise DefenseError(
                f"no activation came out of {type(modules[missed[0]]).__name__} number {missed[0]}; "
                "the defense needs a model whose layers all run, with its adapter enabled and not merged"
            )
        outputs.extend(found[place] for place in range(len(modules)))
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

    def add(place: int) -> Any:
        def hook(_: nn.Module, args: Any, output: Any) -> Any:
            before, given = _tensor(output), shifts[place]
            # A recomputation in the backward pass must add the very tensor that the forward pass added.
            if place not in used:
                used[place] = torch.zeros_like(before, requires_grad=True) if given is None else given.to(before.dtype)
            moved = before + used[place]
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        return hook

    handles = [module.register_forward_hook(add(place)) for place, module in enumerate(modules)]
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
        return iter(self._values[place] for place in sorted(self._values))


def require_recomputable(model: nn.Module) -> None:
    """Refuse reentrant checkpointing, whose first forward pass leaves no activations to hold or differentiate by.

    Raises:
        DefenseError: If a module of the model has it switched on.
    """
    for name, module in model.named_modules():
        recompute = module.__dict__.get("_gradient_checkpointing_func")
        if recompute is None or not module.gradient_checkpointing:
            continue
        if recompute.keywords.get("use_reentrant", True):
            raise DefenseError(
                f"{name} has reentrant activation checkpointing, under which the defense cannot read or change "
                "activations; leave use_reentrant unset or set it to False"
            )


def _tensor(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found
