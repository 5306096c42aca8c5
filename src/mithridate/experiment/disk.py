"""A disk that is full or cannot be written, in one sentence."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from mithridate.errors import MithridateError

_FULL = "no space left to write {}; free some and run the same command again, finished stages are kept"
_FULL_ERRORS = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows knows no quotas
LITTLE = 1 << 20
"""Bytes of free space below which a failed write is put down to a full disk."""


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
        if error.errno in _FULL_ERRORS:
            raise MithridateError(_FULL.format(path)) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise MithridateError(f"{path} cannot be written ({error.strerror}); choose another --out") from error
        raise


def _free(path: Path) -> int:
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free
