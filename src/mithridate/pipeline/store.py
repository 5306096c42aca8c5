"""Results of stages under the hash of what produced them."""

import errno
import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mithridate.errors import CheckpointError, MithridateError, UsageError
from mithridate.training.state import seal, verify, write_json

RESULT = "result.json"


def key_of(spec: dict[str, Any]) -> str:
    """Hash of a specification: its canonical JSON's SHA-256, 20 hexadecimal digits."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:20]


class Store:
    """A folder of finished stages, ``<stage>-<key>``, each sealed by a list of its files' hashes.

    A stage works in ``<stage>-<key>.part``, which an interrupted run takes up again, and is renamed when done.

    Args:
        folder: Where it lies; made on first use.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, stage: str, key: str) -> Path:
        """Folder of a stage's result."""
        return self.folder / f"{stage}-{key}"

    def result(self, stage: str, key: str) -> dict[str, Any] | None:
        """The recorded result of a finished stage; None if there is none.

        Raises:
            CheckpointError: If one of its files was altered, cut or removed.
        """
        folder = self.path(stage, key)
        if not folder.is_dir():
            return None
        try:
            verify(folder)
        except CheckpointError as error:
            raise CheckpointError(
                f"a stored stage is damaged: {error}; delete {folder} to have it made again"
            ) from error
        found: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return found

    def make(self, stage: str, key: str, work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """Do a stage's work once and record its result.

        Args:
            stage: Name of the stage.
            key: Hash of its specification.
            work: Fills a folder and gives the result; the folder may hold what an interrupted run left.

        Raises:
            MithridateError: If the disk is full; nothing finished is lost.
        """
        known = self.result(stage, key)
        if known is not None:
            return known
        final = self.path(stage, key)
        part = final.with_name(final.name + ".part")
        with plain_disk_errors(part):
            part.mkdir(parents=True, exist_ok=True)
            result = work(part)
            for checkpoint in part.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
            write_json(part / RESULT, result)
            seal(part)
            part.rename(final)
        return result

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second run out of the store.

        Raises:
            UsageError: If another run holds it.
        """
        with plain_disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(f"another run uses {self.folder}; wait for it or give another --out") from error
            yield


_FULL = "no space left to write {}; free some and run the same command again, finished stages are kept"
LITTLE = 1 << 20
"""Bytes of free space below which a failed write is put down to a full disk."""


def _free(path: Path) -> int:
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free


@contextmanager
def plain_disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into one clear sentence.

    Raises:
        MithridateError: If the disk is full or cannot be written.
    """
    try:
        yield
    except (SafetensorError, RuntimeError) as error:  # what their writers raise in place of an OSError
        if "No space left" in str(error) or _free(path) < LITTLE:
            raise MithridateError(_FULL.format(path)) from error
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MithridateError(_FULL.format(path)) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise MithridateError(f"{path} cannot be written ({error.strerror}); choose another --out") from error
        raise
