"""Keeps the bytes of uploaded files under their ids: in a local folder, or wherever fsspec reaches."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from fsspec.core import url_to_fs
from sqlalchemy.exc import DBAPIError

PIECE = 1 << 20  # bytes that are held at once


class WrittenBlob:
    """Bytes on their way into the store; nothing is left of them unless `keep` is called.

    Attributes:
        size: Bytes so far.
        sha256: Hash of them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._hash = hashlib.sha256()
        self._file: IO[bytes] = path.open("xb")

    def write(self, piece: bytes) -> None:
        """Add bytes."""
        self._file.write(piece)
        self._hash.update(piece)
        self.size += len(piece)

    @property
    def sha256(self) -> str:
        """Hash of the bytes so far."""
        return self._hash.hexdigest()

    def flush(self) -> None:
        """Let others read the bytes so far under `path`."""
        self._file.flush()

    def finish(self) -> None:
        """Have every byte on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


class BlobStore:
    """Files by id. A name is always an id of ours, so that nothing a customer says becomes a path.

    Args:
        url: A folder, or an address that fsspec knows, such as ``s3://bucket/files``.
        staging: Local folder for bytes that are on their way in.
    """

    def __init__(self, url: str, staging: Path) -> None:
        self._system, self._root = url_to_fs(url)
        self._local = Path(self._root) if "file" in self._system.protocol else None
        self._staging = staging
        staging.mkdir(parents=True, exist_ok=True)
        self._system.makedirs(self._root, exist_ok=True)

    def begin(self, name: str) -> WrittenBlob:
        """Begin to write a file; use it as a context."""
        # Read as JSONL by its name, while it is checked.
        return WrittenBlob(self._staging / f"{name}.jsonl")

    def keep(self, blob: WrittenBlob, name: str) -> None:
        """Put finished bytes into the store."""
        blob.finish()
        if self._local is None:
            self._system.put_file(str(blob.path), self._place(name))
            return
        try:
            os.replace(blob.path, self._local / name)
        except OSError as error:
            if error.errno != 18:  # EXDEV: another disk
                raise
            shutil.copyfile(blob.path, self._local / f"{name}.part")
            os.replace(self._local / f"{name}.part", self._local / name)

    @contextmanager
    def recording(self, *names: str) -> Iterator[None]:
        """Delete files that were just kept if the rows that refer to them cannot be written.

        Where the database itself fails, nobody knows whether it wrote them before its answer was lost. The files then
        stay: a row without its bytes would be a half object, and bytes without a row are swept later.
        """
        keep = False
        try:
            yield
            keep = True
        except DBAPIError:
            keep = True
            raise
        finally:
            for name in () if keep else names:
                self.delete(name)

    def read(self, name: str) -> Iterator[bytes]:
        """Return a file's bytes, piece by piece.

        Raises:
            FileNotFoundError: If there is none.
        """
        with self._system.open(self._place(name), "rb") as file:
            while piece := file.read(PIECE):
                yield piece

    def copy_out(self, name: str, target: Path) -> str:
        """Copy a file to a local path and return the SHA-256 of what was copied."""
        found = hashlib.sha256()
        # Made anew: a link of this name, as a job may leave one, would lead the bytes elsewhere.
        target.unlink(missing_ok=True)
        with target.open("xb") as file:
            for piece in self.read(name):
                file.write(piece)
                found.update(piece)
        return found.hexdigest()

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        if self._system.exists(self._place(name)):
            self._system.rm_file(self._place(name))

    def names(self) -> list[str]:
        """Return the names of all files."""
        found = self._system.ls(self._root, detail=False, refresh=True) if self._local is None else None
        if found is None:
            assert self._local is not None  # the condition above, for type checkers
            return sorted(path.name for path in self._local.iterdir())
        return sorted(str(path).rpartition("/")[2] for path in found)

    def sweep_staging(self, older: float) -> int:
        """Delete what lost requests have left.

        Args:
            older: Time in seconds since 1970; only what was last written before it is deleted.

        Returns:
            How many files were deleted.
        """
        lost = [path for path in self._staging.iterdir() if path.stat().st_mtime < older]
        for path in lost:
            path.unlink(missing_ok=True)
        return len(lost)

    def _place(self, name: str) -> str:
        return f"{self._root}/{name}"
