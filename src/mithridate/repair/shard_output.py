"""The output of a repair on disk: files with the layout of the model's own, filled weight by weight."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from mithridate.models.stored_weights import StoredWeights, require_finite
from mithridate.models.tensor_files import StoredTensor, read_bytes
from mithridate.repair.output_file import Beside, OutputFile, SealedFile
from mithridate.repair.output_journal import FinishedFile, Journal, WeightChange
from mithridate.repair.tally import Tally

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and the bytes there are."""
CHUNK = 1 << 24
"""Bytes that are copied at a time."""


class ShardOutput:
    """Writes the weights of a model into files that differ from its own in their values only.

    A file is finished as soon as the last weight that may change in it is: what was not written is copied, the bytes
    reach the disk, and the journal notes their hash. Hash and disk are waited for beside the next file's arithmetic.

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
        self._open: dict[str, OutputFile] = {}
        self._sealed: list[tuple[str, SealedFile, FinishedFile]] = []
        self._done = sum(self._headers[name].size for name in journal.files)
        self._tally = Tally()
        # Weights that may still change, by the file that they are in.
        self._waiting: dict[str, set[str]] = {file: set() for file in self._headers}

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._beside = Beside(*(self._stack.enter_context(ThreadPoolExecutor(1)) for _ in range(2)))
        self._progress(self._done, self._weights.checkpoint.size)
        return self

    def __exit__(self, *error: object) -> None:
        # First the threads, which read from open files.
        self._stack.close()
        # What has reached the disk is kept, whatever stopped the repair; on a full disk the journal cannot grow.
        if not isinstance(error[1], OSError) and not any(sealed.failed for _, sealed, _ in self._sealed):
            self._collect()
        for file in self._open.values():
            file.close()
        for _, sealed, _ in self._sealed:
            sealed.close()

    def pending(self, names: Sequence[str], done: Tally) -> list[str]:
        """Return the weights that lie in files that are not finished.

        Args:
            names: Weights that may change; all others are copied.
            done: Takes what the journal knows of finished files, and tells it of those that are finished now.
        """
        self._tally = done
        self._restore(done)
        for name in names:
            for file in self._unfinished(name):
                self._waiting[file].add(name)
        return [name for name in names if self._unfinished(name)]

    def finished(self, name: str) -> None:
        """Take a weight as it is now, and finish each file of which it was the last one."""
        for file in sorted(self._unfinished(name)):
            for tensor in self._weights.stored_under(name):
                if tensor.path.name == file:
                    self._fill(file, tensor)
            self._waiting[file].discard(name)
            if not self._waiting[file]:
                self._finish(file)

    def write(self, tensor: StoredTensor, rows: slice, values: Tensor) -> None:
        """Write some rows of a tensor, unless its file is finished."""
        file = tensor.path.name
        if file in self._journal.files:
            return
        start, size = tensor.span(rows)
        self._file(file).write(start, values)
        self._count(size)

    def finish(self) -> dict[str, str]:
        """Finish all files, and return their hashes."""
        for file in self._headers:
            if file not in self._journal.files and all(file != sealed for sealed, _, _ in self._sealed):
                self._finish(file)
        self._collect()
        return {name: finished.sha256 for name, finished in self._journal.files.items()}

    def _unfinished(self, name: str) -> set[str]:
        return {tensor.path.name for tensor in self._weights.stored_under(name)} - self._journal.files.keys()

    def _file(self, name: str) -> OutputFile:
        if name not in self._open:
            header = self._headers[name]
            self._open[name] = OutputFile(self._folder / name, header, self._beside)
            self._count(len(header.content))
            # What never changes is copied at once, so that it leaves no gaps that the hash would have to wait for.
            for tensor in header.tensors.values():
                if self._names.get(tensor.name) not in self._waiting[name]:
                    self._fill(name, tensor)
        return self._open[name]

    def _finish(self, name: str) -> None:
        file, header = self._file(name), self._headers[name]
        for tensor in header.tensors.values():
            self._fill(name, tensor)
        held = {self._names[one] for one in header.tensors if one in self._names}
        # One at a time: a disk that is slower than the arithmetic would leave ever more files to be noted.
        self._collect()
        del self._open[name]
        self._sealed.append((name, file.seal(), self._record(held)))

    def _fill(self, name: str, tensor: StoredTensor) -> None:
        """Write the rest of a tensor: the original values, with the adapter merged in where there is one."""
        file = self._file(name)
        gaps = list(file.gaps(tensor))
        merged = self._merged(tensor) if gaps else None
        for start, end in gaps:
            for first in range(start, end, CHUNK):
                last = min(first + CHUNK, end)
                if merged is not None:
                    values = merged[first - tensor.start : last - tensor.start]
                else:
                    values = _copied(tensor, first, last - first)
                file.write(first, values)
                self._count(last - first)

    def _merged(self, tensor: StoredTensor) -> Tensor | None:
        """Return the bytes of a weight that the adapter changes; None for all others, which are as in their file."""
        name = self._names.get(tensor.name)
        if name is None or not self._weights.changed_by_adapter(name):
            return None
        return self._weights.read(name).to(tensor.dtype).detach().contiguous().reshape(-1).view(torch.uint8)

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
        while self._sealed:
            name, sealed, record = self._sealed.pop(0)
            self._journal.add(name, record.model_copy(update={"sha256": sealed.sha256()}))

    def _count(self, size: int) -> None:
        self._done += size
        self._progress(self._done, self._weights.checkpoint.size)


def _copied(tensor: StoredTensor, start: int, size: int) -> Tensor:
    """Return some bytes of a tensor, without NaN or Inf among its values."""
    values = read_bytes(tensor.path, start, size)
    if tensor.dtype.is_floating_point and tensor.dtype.itemsize > 1:
        require_finite(values.view(tensor.dtype), f"{tensor.name} in {tensor.path}")
    return values
