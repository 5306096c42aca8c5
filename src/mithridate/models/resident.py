"""Weights of a model on disk that are in memory for a while."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mithridate.models.stored_weights import StoredWeights


@contextmanager
def resident(
    weights: StoredWeights, modules: Iterable[nn.Module], dtype: torch.dtype, trained: frozenset[int] = frozenset()
) -> Iterator[dict[str, nn.Parameter]]:
    """Inside the block some modules hold their values; after it they are as empty as before.

    Args:
        weights: The model on disk.
        modules: The modules; those inside them are not meant unless they are named.
        dtype: Type of the values in memory.
        trained: Ids of parameters whose values take gradients.

    Yields:
        The parameters that were read, by the plain name of the weight.
    """
    held: dict[str, nn.Parameter] = {}
    before: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for module in modules:
            for own, parameter in module._parameters.items():
                if parameter is not None and parameter.is_meta and id(parameter) in weights.names_by_id:
                    name = weights.names_by_id[id(parameter)]
                    # Tied weights are one parameter, in memory too.
                    if name not in held:
                        held[name] = nn.Parameter(weights.plain(name).to(dtype), id(parameter) in trained)
                    before.append((module, own, parameter))
                    module._parameters[own] = held[name]
        yield held
    finally:
        for module, own, parameter in before:
            module._parameters[own] = parameter
