"""Tensors in safetensors files, read one at a time and in pieces; no file is mapped into memory."""

import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mithridate.errors import ModelError

_KINDS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Types by their names in safetensors files."""
_LENGTH = 8  # bytes that hold the length of the header, little-endian
_LONGEST = 100_000_000  # bytes of a header that the format allows
EVERY_ROW = slice(None)
"""All of a tensor."""


class StoredTensor(NamedTuple):
    """Where a tensor lies.

    Attributes:
        path: Its file.
        name: Its name in the file.
        dtype: Its type.
        shape: Its shape.
        start: Its first byte in the file.
        size: Its bytes.
    """

    path: Path
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    size: int

    def span(self, rows: slice = EVERY_ROW) -> tuple[int, int]:
        """Return the first byte in the file and the number of bytes of some rows."""
        if rows == EVERY_ROW:
            return self.start, self.size
        first, last, _ = rows.indices(self.shape[0])
        row = self.size // self.shape[0]
        return self.start + first * row, (last - first) * row

    def read(self, rows: slice = EVERY_ROW) -> Tensor:
        """Return the values in their own type.

        Raises:
            ModelError: If the file ends before them.
        """
        values = read_bytes(self.path, *self.span(rows))
        return values.view(self.dtype).view(self.shape if rows == EVERY_ROW else (-1, *self.shape[1:]))


class Header(NamedTuple):
    """What a file says about its tensors.

    Attributes:
        content: The file's first bytes, up to the first tensor's.
        tensors: Tensors by name, in the order of the file.
        size: Bytes of the file.
    """

    content: bytes
    tensors: dict[str, StoredTensor]
    size: int


def read_header(path: Path) -> Header:
    """Read what a safetensors file holds, and check that all of it is there.

    Raises:
        ModelError: If it is no whole safetensors file, or holds a type that is not known.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH), "little")
            if not 0 < length <= min(_LONGEST, size - _LENGTH):
                raise _broken(path, "its header is cut off")
            header = file.read(length)
        entries: Any = json.loads(header)
        tensors = [
            _stored(path, name, entry, _LENGTH + length) for name, entry in entries.items() if name != "__metadata__"
        ]
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); check the folder's files") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(path, "its header cannot be read") from error
    tensors.sort(key=lambda tensor: tensor.start)
    end = _LENGTH + length
    for tensor in tensors:
        # Each begins where the one before it ends, so that no byte belongs to two tensors or to none.
        if tensor.start != end or tensor.size != math.prod(tensor.shape) * tensor.dtype.itemsize:
            raise _broken(path, f"'{tensor.name}' does not lie where its header says")
        end += tensor.size
    if end != size:
        raise _broken(path, f"it has {size} bytes where its header says {end}")
    return Header(length.to_bytes(_LENGTH, "little") + header, {tensor.name: tensor for tensor in tensors}, size)


def read_bytes(path: Path, start: int, size: int) -> Tensor:
    """Return some bytes of a file, uint8.

    Raises:
        ModelError: If the file ends before them.
    """
    # Plain reads: pages of a mapped file would count as this process's memory.
    values = torch.empty(size, dtype=torch.uint8)
    view = memoryview(values.numpy())  # type: ignore[arg-type]  # numpy's stubs lack the protocol
    done = 0
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while done < size:
            # One system call reads two gigabytes at most.
            count = file.readinto(view[done:])
            if not count:
                raise ModelError(f"{path} ends before the tensors that its header names; copy the file again")
            done += count
    return values


def write_at(file: int, start: int, values: Tensor) -> None:
    """Write a tensor's bytes into an open file.

    Args:
        file: Descriptor of the file.
        start: Where the first byte goes.
        values: The tensor.
    """
    view = memoryview(values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    done = 0
    while done < len(view):
        done += os.pwrite(file, view[done:], start + done)


def _stored(path: Path, name: str, entry: dict[str, Any], offset: int) -> StoredTensor:
    if entry["dtype"] not in _KINDS:
        raise ModelError(f"'{name}' in {path} has the type {entry['dtype']}, which no repair can read; convert it")
    start, end = entry["data_offsets"]
    return StoredTensor(path, name, _KINDS[entry["dtype"]], tuple(entry["shape"]), offset + start, end - start)


def _broken(path: Path, why: str) -> ModelError:
    return ModelError(f"{path} is not a whole safetensors file: {why}; copy or save it again")
