"""Vectors over split weights in a checkpoint: each process writes its shards; any number of processes reads them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from mithridate.training.sharding import of_shards, own
from mithridate.training.trainable_weights import Weights

FOLDER = "mithridate-shards"
"""Folder inside a checkpoint."""


def is_vector(value: Any, weights: Weights) -> bool:
    """Return whether a value is a vector over the weights, of which this process holds its shards only.

    All processes must ask; a list that fits the shards of one of them by chance does not fit those of the others.
    """
    holders = weights.holders
    if holders is None:
        return False
    shapes = [shard.shape for shard in weights.shards]
    fits = isinstance(value, list) and [getattr(item, "shape", None) for item in value] == shapes
    return all(holders.gather(fits))


def save_vectors(folder: Path, vectors: Mapping[str, Sequence[Tensor]], weights: Weights) -> None:
    """Write vectors by name; every process must call it."""
    save(_split(vectors, weights), checkpoint_id=folder / FOLDER)


def load_vectors(folder: Path, types: Mapping[str, str], weights: Weights) -> dict[str, list[Tensor]]:
    """Read what ``save_vectors`` wrote, with the same or another number of processes.

    Args:
        folder: The checkpoint.
        types: Type of the numbers of each vector, such as ``float32``.
        weights: The weights that the vectors are over.

    Returns:
        This process's shards, by the vector's name.
    """
    vectors = {
        name: [torch.empty_like(shard, dtype=getattr(torch, kind)) for shard in weights.shards]
        for name, kind in types.items()
    }
    found = _split(vectors, weights)
    load(found, checkpoint_id=folder / FOLDER)
    return {name: [own(found[f"{name}/{weight}"]) for weight in weights.names] for name in types}


def _split(vectors: Mapping[str, Sequence[Tensor]], weights: Weights) -> dict[str, Any]:
    """Tensors by the names of vector and weight, split as the weights are."""
    parameters = weights.parameters
    return {
        f"{name}/{weight}": of_shards(shard.detach(), parameter)
        for name, shards in vectors.items()
        for weight, shard, parameter in zip(weights.names, shards, parameters, strict=True)
    }
