"""One file of a repair's output, which is hashed and sent to the disk while it grows."""

import errno
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Executor, Future, wait
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from mithridate.models.tensor_files import Header, StoredTensor, write_at

STEP = 1 << 25
"""Bytes after which what was written is hashed and sent to the disk."""
PART = 1 << 20
"""Bytes that are hashed at a time."""


class Beside(NamedTuple):
    """Threads beside the one that writes, one of each: work that is given to them is done in its order.

    Attributes:
        hashing: Reads back what was written and hashes it.
        syncing: Waits for the disk.
    """

    hashing: Executor
    syncing: Executor


class OutputFile:
    """A file with the layout of another one, whose tensors are written in any order.

    A hash needs the bytes in their order, so it follows the beginning of the file that has no gaps. It is read back
    from the system's cache, which costs little and holds no tensor in memory for it. What was hashed and has reached
    the disk leaves that cache, so that the next bytes are written to pages that are at hand, and the models that are
    read stay in it.

    Args:
        path: The file; what is there is overwritten.
        header: The layout.
        beside: Threads for hash and disk.
    """

    def __init__(self, path: Path, header: Header, beside: Beside) -> None:
        self._path, self._header, self._beside = path, header, beside
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        # First bytes of what was written behind the first gap, with the byte after the last; where the gap begins.
        self._spans: dict[int, int] = {}
        self._whole = 0
        # How far the hash is asked to go, and how far it is.
        self._digest, self._hashed, self._digested = hashlib.sha256(), 0, 0
        self._absorbed: Future[None] | None = None
        self._synced: Future[None] | None = None
        os.truncate(self._file, header.size)
        # The same header means the same names, types, shapes and places, whatever wrote the original.
        os.pwrite(self._file, header.content, 0)
        self._take(0, len(header.content))

    def write(self, start: int, values: Tensor) -> None:
        """Write a tensor's bytes from a place on; every byte is written once."""
        end = start + values.numel() * values.itemsize
        if start == end:
            return
        assert start >= self._whole, "the hash has taken what was here"
        assert start not in self._spans, "a byte is written once"
        write_at(self._file, start, values)
        self._take(start, end)

    def gaps(self, tensor: StoredTensor) -> Iterator[tuple[int, int]]:
        """Yield the bytes of a tensor that were not written: the first one, and the one after the last."""
        last = tensor.start + tensor.size
        end = max(tensor.start, self._whole)
        for start, stop in sorted(span for span in self._spans.items() if tensor.start <= span[0] < last):
            if start > end:
                yield end, start
            end = stop
        if end < last:
            yield end, last

    def seal(self) -> "SealedFile":
        """Hash what is left and bring it to the disk, beside the caller's own work; nothing more can be written."""
        assert self._whole == self._header.size, "a file is sealed when it has no gaps"
        self._follow(1)
        synced = self._beside.syncing.submit(self._reach_disk, self._synced)
        return SealedFile(self._beside.hashing.submit(self._hexdigest, self._absorbed), synced, self._file)

    def close(self) -> None:
        """Close the file as it is, unfinished; no thread may be at work on it."""
        os.close(self._file)

    def _take(self, start: int, end: int) -> None:
        self._spans[start] = end
        while self._whole in self._spans:
            self._whole = self._spans.pop(self._whole)
        self._follow(STEP)

    def _follow(self, least: int) -> None:
        """Hash the beginning of the file that has no gaps, where at least so many bytes of it are new."""
        if self._whole - self._hashed < least:
            return
        self._absorbed = self._beside.hashing.submit(self._absorb, self._absorbed, self._hashed, self._whole)
        self._hashed = self._whole
        if self._synced is None or self._synced.done():
            self._synced = self._beside.syncing.submit(self._reach_disk, self._synced)

    # Each asks whether the one before it failed, as nobody else does: the system tells of a failed write only once.

    def _absorb(self, before: Future[None] | None, start: int, end: int) -> None:
        _require_done(before)
        buffer = memoryview(bytearray(PART))
        while start < end:
            size = os.preadv(self._file, [buffer[: end - start]], start)
            if not size:
                raise OSError(errno.EIO, f"{self._path} was cut while it was written")
            self._digest.update(buffer[:size])
            self._digested = start = start + size

    def _hexdigest(self, before: Future[None] | None) -> str:
        _require_done(before)
        return self._digest.hexdigest()

    def _reach_disk(self, before: Future[None] | None) -> None:
        _require_done(before)
        hashed = self._digested
        os.fsync(self._file)
        if hashed:
            _drop_cached(self._file, hashed)


class SealedFile:
    """A file whose last bytes are on their way to the disk.

    Args:
        hashed: The hash of its bytes.
        synced: Done when they are there.
        file: Descriptor of the file, which is closed then.
    """

    def __init__(self, hashed: Future[str], synced: Future[None], file: int) -> None:
        self._hashed, self._synced, self._file = hashed, synced, file

    def sha256(self) -> str:
        """Wait for the disk, close the file and return the hash.

        Raises:
            OSError: If the file could not be written or read back.
        """
        try:
            self._synced.result()
            digest = self._hashed.result()
            _drop_cached(self._file, 0)
            return digest
        finally:
            self.close()

    @property
    def failed(self) -> bool:
        """Whether it could not be written or read back; waits for the disk."""
        return self._synced.exception() is not None or self._hashed.exception() is not None

    def close(self) -> None:
        """Close the file, when no thread works on it any more: its number will soon be another file's."""
        wait((self._synced,))
        wait((self._hashed,))
        os.close(self._file)


def _drop_cached(file: int, end: int) -> None:
    """Take the bytes before a place out of the system's cache, or all of them for 0, those that are on the disk."""
    if hasattr(os, "posix_fadvise"):  # Linux has it, macOS has not
        os.posix_fadvise(file, 0, end, os.POSIX_FADV_DONTNEED)


def _require_done(before: Future[None] | None) -> None:
    if before is not None:
        before.result()
