"""Sums over the activations that enter or leave layers, over calibration rows."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.pytorch_utils import Conv1D

from mithridate.errors import DefenseError
from mithridate.models.activations import captured
from mithridate.models.batches import STAND_IN, Batch, collate, of_equal_length
from mithridate.models.fused_head import scored
from mithridate.models.linear_algebra import top_eigenvectors
from mithridate.models.modes import evaluating
from mithridate.models.tokenization import TokenizedRow


def input_norms(
    model: nn.Module, layers: Mapping[str, nn.Module], examples: Sequence[TokenizedRow]
) -> dict[str, Tensor]:
    """sqrt( Σ_rows Σ_tokens x² / number of rows ) per input feature of each layer.

    Only rows of the same length go through the model together, so that no padding can change the result; sums are kept
    in float64.

    Args:
        model: The model to run.
        layers: Layers whose inputs are measured, by name.
        examples: Calibration rows; tokens of prompt and completion count alike.

    Returns:
        (inputs,) float64 for each name.

    Raises:
        DefenseError: If no activation reached a layer (a merged adapter, a replaced forward).
    """
    sums = _sums(model, layers, examples, squares)
    return {name: (total / len(examples)).sqrt() for name, total in sums.items()}


def input_grams(
    model: nn.Module, layers: Mapping[str, nn.Module], examples: Sequence[TokenizedRow]
) -> dict[str, Tensor]:
    """X·Xᵀ = Σ_rows Σ_tokens x·xᵀ of each layer's inputs, without padding as well.

    Args:
        model: The model to run.
        layers: Layers whose inputs are measured, by name.
        examples: Calibration rows; tokens of prompt and completion count alike.

    Returns:
        (inputs, inputs) for each name, float32 or what the activations have if that is more.

    Raises:
        DefenseError: If no activation reached a layer.
    """
    return _sums(model, layers, examples, products)


@torch.no_grad()
def output_grams(
    model: nn.Module,
    layers: Sequence[nn.Module],
    batches: Iterable[Batch],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> list[Tensor]:
    """Σ_rows Σ_tokens y·yᵀ of each linear layer's outputs y = W·x, its bias left out.

    Args:
        model: The model to run, without dropout.
        layers: Linear layers of the model.
        batches: Rows to run it on; tokens of prompt and completion count alike, padding not at all.
        autocast: Factory of the mixed-precision context of forward passes.

    Returns:
        (outputs, outputs) float64 for each layer; nothing is added up where there are no rows.

    Raises:
        DefenseError: If no activation came out of a layer.
    """
    sums: list[Tensor] = []
    for layer in layers:
        # Not the weight's shape, which quantization packs.
        outputs: Any = layer.nf if isinstance(layer, Conv1D) else layer.out_features
        device = next(layer.parameters()).device
        sums.append(torch.zeros(outputs, outputs, dtype=torch.float64, device=device))
    # Before the passes, of which a process without rows makes fewer: under FSDP2 each gather is made by all.
    biases: list[Any] = [None if layer.bias is None else _whole(layer.bias) for layer in layers]
    with evaluating(model):
        for batch in batches:
            with captured(layers) as outputs_of, autocast():
                scored(model, batch)
            real = batch["attention_mask"].bool()
            if STAND_IN in batch:
                continue
            for number, (bias, y) in enumerate(zip(biases, outputs_of, strict=True)):
                # A bias is the same for every input and would take up a direction of its own.
                y = y.reshape(*real.shape, -1)[real].double() - (0 if bias is None else bias.double())
                sums[number] += y.T @ y
    return sums


def _whole(bias: Any) -> Tensor:
    """Return a bias that FSDP2 may have split over processes."""
    found: Tensor = bias.detach()
    return found.full_tensor() if isinstance(found, DTensor) else found


def output_directions(gram: Tensor, k: int, name: str) -> Tensor:
    """Return the top left singular directions of a layer's outputs, (outputs, k), from Σ y·yᵀ.

    Args:
        gram: Σ y·yᵀ, (outputs, outputs).
        k: Number of directions.
        name: Name of the layer, for messages.

    Raises:
        DefenseError: If the layer has no more than k outputs, or they are not finite.
    """
    if k >= len(gram):
        raise DefenseError(f"{name} has {len(gram)} outputs, so {k} directions leave nothing to tune; lower it")
    if not bool(gram.isfinite().all()):
        raise DefenseError(f"the outputs of {name} are not finite; check the weights")
    return top_eigenvectors(gram, k)


class LayerSums(Protocol):
    """Sums by the names of layers, each of which is used once."""

    def pop(self, name: str, /) -> Tensor:
        """Return the sum of a layer and forget it."""


Term = Callable[[Tensor], Tensor]
"""From the activations that enter a layer, (tokens, inputs), to what is added up over rows."""


def squares(x: Tensor) -> Tensor:
    """Σ_tokens x² per input feature, float64."""
    return x.double().square().sum(dim=0)


def products(x: Tensor) -> Tensor:
    """Σ_tokens x·xᵀ, float32 or what the activations have if that is more."""
    # Float64 would double the size of a matrix of inputs² for every layer.
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x.T @ x


@contextmanager
def summing(layers: Mapping[str, nn.Module], term: Term) -> Iterator[dict[str, Tensor]]:
    """Inside the block every forward pass adds a term of what enters each layer, by the layer's name."""
    sums: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def add(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].detach()
            # Only the sum is kept: the activations of a whole set would not fit.
            part = term(x.reshape(-1, x.shape[-1]))
            sums[name] = sums[name] + part if name in sums else part

        return add

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


def require_reached(layers: Mapping[str, nn.Module], sums: Mapping[str, Tensor]) -> None:
    """Refuse sums in which a layer is missing.

    Raises:
        DefenseError: If no activation reached it.
    """
    missed = [name for name in layers if name not in sums]
    if missed:
        raise DefenseError(
            f"no activation reached {missed[0]} (nor {len(missed) - 1} others), so its weights cannot be ranked. "
            "Either its adapter is merged or disabled (unmerge and enable it), or the model's forward was replaced by "
            "one that runs other layers, as in a copy of a model with a replaced forward (load the model anew)"
        )


@torch.no_grad()
def _sums(
    model: nn.Module, layers: Mapping[str, nn.Module], examples: Sequence[TokenizedRow], term: Term
) -> dict[str, Tensor]:
    """Σ_rows of a term of (tokens, inputs), for each layer."""
    device = next(model.parameters()).device
    with summing(layers, term) as sums, evaluating(model):
        for rows in of_equal_length(examples):
            # There is no padding, so any padding token will do.
            batch = collate(rows, 0, device)
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    require_reached(layers, sums)
    return {name: sums[name] for name in layers}
