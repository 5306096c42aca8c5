"""Vectors over all weights that lie on disk, one tensor a file."""

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mithridate.models.tensor_files import EVERY_ROW, StoredTensor, read_header
from mithridate.training.gradient import Gradient, require_direction


class StoredVector:
    """One tensor for each of some names, written and read by itself.

    Args:
        folder: Where the files go; it is made where there is none.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._tensors: dict[str, StoredTensor] = {}
        self._norms: dict[str, float] = {}

    def add(self, name: str, values: Tensor) -> None:
        """Add to the tensor of a name, which is zero at first."""
        if name in self._tensors:
            values = self.read(name) + values
        self.put(name, values)
        self._norms[name] = Gradient([values]).norm()

    def put(self, name: str, values: Tensor) -> None:
        """Set the tensor of a name."""
        # Numbered, since a name may be too long for a file or hold what a file's name must not.
        path = self._tensors[name].path if name in self._tensors else self._folder / f"{len(self._tensors)}.safetensors"
        save_file({"values": values.detach().contiguous()}, path)
        self._tensors[name] = read_header(path).tensors["values"]

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def read(self, name: str, rows: slice = EVERY_ROW) -> Tensor:
        """Return the tensor of a name, or some of its rows."""
        return self._tensors[name].read(rows)

    def take(self, name: str) -> Tensor:
        """Return the tensor of a name and delete it."""
        values = self.read(name)
        os.unlink(self._tensors.pop(name).path)
        return values

    def norm(self, names: Iterable[str]) -> float:
        """Return the L2 norm over the tensors of some names together, in the order of the names.

        Raises:
            DefenseError: If it is zero or not finite, since no direction exists then.
        """
        norms = [self._norms[name] for name in names if name in self._norms]
        norm = float(torch.tensor(norms, dtype=torch.float64).square().sum().sqrt())
        require_direction(norm)
        return norm
