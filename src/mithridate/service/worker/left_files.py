"""Reads what a job's process has left in its folder: its own files alone, never what a link leads to.

A confined process can make a link to anything; whoever follows it with the worker's rights would read or write there.
"""

import errno
import os
import stat
from pathlib import Path
from typing import IO

_NOT_THERE = frozenset({errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO})
"""What the system says of a link, a pipe or a socket, and of nothing at all."""


def own_file(folder: Path, name: str) -> IO[bytes] | None:
    """Open a file of a job for reading.

    Args:
        folder: The job's folder.
        name: Name of the file, relative to it.

    Returns:
        The file; None where there is none, or where it or a folder on the way to it is a link or no plain file.
    """
    found = _opened(folder, name, os.O_RDONLY)
    if found is None:
        return None
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        return None
    return os.fdopen(found, "rb")


def own_bytes(folder: Path, name: str) -> bytes | None:
    """Return the content of a file of a job; see `own_file`."""
    file = own_file(folder, name)
    if file is None:
        return None
    with file:
        return file.read()


def has_own_folder(folder: Path, name: str) -> bool:
    """Return whether a job has a folder of this name that no link leads to."""
    found = _opened(folder, name, os.O_RDONLY | os.O_DIRECTORY)
    if found is not None:
        os.close(found)
    return found is not None


def own_log(path: Path) -> IO[bytes]:
    """Open a job's log to add to it.

    Raises:
        OSError: If it is a link or cannot be written.
    """
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666), "ab")


def drop_links(folder: Path) -> None:
    """Delete the links, pipes and sockets that an earlier attempt has left where the worker writes."""
    for path in folder.iterdir():
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            path.unlink()


def _opened(folder: Path, name: str, flags: int) -> int | None:
    *through, last = Path(name).parts
    at: int | None = None
    try:
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        # Folder by folder: the system refuses a link in the last part of a path alone.
        for part in through:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        # Without waiting for whoever would write into a pipe.
        return os.open(last, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise
    finally:
        if at is not None:
            os.close(at)
