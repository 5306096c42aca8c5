"""The output of a repair on disk: files with the layout of the model's own, filled weight by weight."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from mithridate.files import file_hash
from mithridate.models.stored_weights import StoredWeights, require_finite
from mithridate.models.tensor_files import StoredTensor, read_bytes, write_at
from mithridate.repair.output_journal import FinishedFile, Journal, WeightChange
from mithridate.repair.tally import Tally

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and the bytes there are."""
CHUNK = 1 << 24
"""Bytes that are copied at a time."""


class ShardOutput:
    """Writes the weights of a model into files that differ from its own in their values only.

    A file is finished as soon as the last weight that may change in it was asked for: what was not written is copied,
    the bytes reach the disk, and the journal notes their hash. That is done beside the next file's arithmetic.

    Args:
        folder: Where the files go.
        weights: The model to repair.
        journal: Which files are finished.
        progress: Called as bytes are done.
    """

    def __init__(self, folder: Path, weights: StoredWeights, journal: Journal, progress: Progress) -> None:
        self._folder, self._weights, self._journal, self._progress = folder, weights, journal, progress
        self._headers = weights.checkpoint.headers
        self._names = {tensor.name: name for name in weights.names for tensor in weights.stored_under(name)}
        # What was written to each open file, as pairs of first byte and byte after the last.
        self._written: dict[str, dict[str, list[tuple[int, int]]]] = {}
        self._open: dict[str, int] = {}
        self._sealing: list[tuple[str, Future[str], FinishedFile]] = []
        self._done = sum(self._headers[name].size for name in journal.files)
        self._tally = Tally()

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._worker = self._stack.enter_context(ThreadPoolExecutor(1))
        self._progress(self._done, self._weights.checkpoint.size)
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._open.values():
            os.close(file)
        self._open.clear()
        self._stack.close()
        # What has reached the disk is kept, whatever stopped the repair; on a full disk the journal cannot grow.
        if not isinstance(error[1], OSError) and all(hashed.exception() is None for _, hashed, _ in self._sealing):
            self._collect()

    def each(self, names: Sequence[str], done: Tally) -> Iterator[str]:
        """Yield the weights that lie in files that are not finished, and finish each file behind its last one.

        Args:
            names: Weights that may change.
            done: Takes what the journal knows of finished files, and tells it of those that are finished now.
        """
        self._tally = done
        self._restore(done)
        files = {name: {tensor.path.name for tensor in self._weights.stored_under(name)} for name in names}
        waiting = {file: {name for name in names if file in files[name]} for file in self._headers}
        for name in names:
            unfinished = files[name] - self._journal.files.keys()
            if unfinished:
                yield name
            for file in sorted(unfinished):
                waiting[file].discard(name)
                if not waiting[file]:
                    self._finish(file)
        # As if no file had been finished before: sums of floats depend on their order.
        done.reorder(names)

    def write(self, tensor: StoredTensor, rows: slice, values: Tensor) -> None:
        """Write some rows of a tensor, unless its file is finished."""
        file = tensor.path.name
        if file in self._journal.files:
            return
        start, size = tensor.span(rows)
        write_at(self._file(file), start, values)
        self._written[file].setdefault(tensor.name, []).append((start, start + size))
        self._count(size)

    def finish(self) -> dict[str, str]:
        """Finish all files, and return their hashes."""
        for file in self._headers:
            if file not in self._journal.files and all(file != sealing for sealing, _, _ in self._sealing):
                self._finish(file)
        self._collect()
        return {name: finished.sha256 for name, finished in self._journal.files.items()}

    def _file(self, name: str) -> int:
        if name not in self._open:
            file = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
            self._open[name], self._written[name] = file, {}
            header = self._headers[name]
            os.truncate(file, header.size)
            # The same header means the same names, types, shapes and places, whatever wrote the original.
            os.pwrite(file, header.content, 0)
            self._count(len(header.content))
        return self._open[name]

    def _finish(self, name: str) -> None:
        file = self._file(name)
        for tensor in self._headers[name].tensors.values():
            self._fill(file, tensor, self._written[name].pop(tensor.name, []))
        os.close(self._open.pop(name))
        held = {self._names[one] for one in self._headers[name].tensors if one in self._names}
        # One at a time: a disk that is slower than the arithmetic would leave ever more files to be noted.
        self._collect()
        self._sealing.append((name, self._worker.submit(_seal, self._folder / name), self._record(held)))

    def _fill(self, file: int, tensor: StoredTensor, written: list[tuple[int, int]]) -> None:
        """Write the rest of a tensor: the original values, with the adapter merged in where there is one."""
        gaps = list(_gaps(tensor, written))
        name = self._names.get(tensor.name)
        if gaps and name is not None and self._weights.changed_by_adapter(name):
            merged = self._weights.read(name).to(tensor.dtype).contiguous().reshape(-1).view(torch.uint8)
            for start, end in gaps:
                write_at(file, start, merged[start - tensor.start : end - tensor.start])
                self._count(end - start)
            return
        for start, end in gaps:
            for first in range(start, end, CHUNK):
                values = read_bytes(tensor.path, first, min(CHUNK, end - first))
                if tensor.dtype.is_floating_point and tensor.dtype.itemsize > 1:
                    require_finite(values.view(tensor.dtype), f"{tensor.name} in {tensor.path}")
                write_at(file, first, values)
                self._count(len(values))

    def _record(self, names: set[str]) -> FinishedFile:
        tally = self._tally
        changes = {
            name: WeightChange(
                changed=tally.counts.get(name, 0),
                square=tally.squares.get(name, 0.0),
                figures=tally.figures.get(name, {}),
            )
            for name in names
            if name in tally.counts or name in tally.figures
        }
        return FinishedFile(sha256="", weights=changes)

    def _restore(self, tally: Tally) -> None:
        for finished in self._journal.files.values():
            for name, change in finished.weights.items():
                if change.changed:
                    tally.counts[name], tally.squares[name] = change.changed, change.square
                if change.figures:
                    tally.figures[name] = change.figures

    def _collect(self) -> None:
        """Note the files that are on their way, as soon as they have reached the disk."""
        while self._sealing:
            name, hashed, record = self._sealing.pop(0)
            self._journal.add(name, record.model_copy(update={"sha256": hashed.result()}))

    def _count(self, size: int) -> None:
        self._done += size
        self._progress(self._done, self._weights.checkpoint.size)


def _gaps(tensor: StoredTensor, written: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the bytes of a tensor that were not written."""
    end = tensor.start
    for first, last in sorted(written):
        if first > end:
            yield end, first
        end = max(end, last)
    if end < tensor.start + tensor.size:
        yield end, tensor.start + tensor.size


def _seal(path: Path) -> str:
    """Bring a file's bytes to the disk and return their hash."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return file_hash(path)
