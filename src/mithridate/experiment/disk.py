"""Reports a disk that is full or cannot be written in one sentence."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from mithridate.errors import MithridateError

_FULL = "no space left to write {}; free some space and run the same command again, {} are kept"
_FULL_ERRORS = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows knows no quotas
LITTLE = 1 << 20
"""Free bytes below which a failed write is blamed on a full disk, even if the error does not say so."""


@contextmanager
def plain_disk_errors(path: Path, kept: str = "finished stages") -> Iterator[None]:
    """Turn the errors of a full or read-only disk into one clear sentence.

    Args:
        path: What is written.
        kept: What a second call finds of the first one.

    Raises:
        MithridateError: If the disk is full or cannot be written.
    """
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        # What the writers of safetensors and torch raise in place of an OSError; they carry no errno to go by.
        if "No space left" in str(error) or _free(path) < LITTLE:
            raise MithridateError(_FULL.format(path, kept)) from error
        raise
    except OSError as error:
        if error.errno in _FULL_ERRORS:
            raise MithridateError(_FULL.format(path, kept)) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise MithridateError(f"{path} cannot be written ({error.strerror}); choose another --out") from error
        raise


def _free(path: Path) -> int:
    # The folder itself may not have been made yet.
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free
