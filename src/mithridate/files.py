"""Writing files that are whole or not there, and their hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the system says where a disk, or a user's share of it, is full."""


def disk_was_full(error: BaseException) -> bool:
    """Return whether an error, or one that it came from, is that of a full disk."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        if isinstance(one, OSError) and one.errno in DISK_FULL:
            return True
        # Libraries that write through other languages have no number to pass on, only the system's words.
        if os.strerror(errno.ENOSPC).lower() in str(one).lower():
            return True
        one = one.__cause__ or one.__context__
    return False


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_hash(paths: Iterable[Path], root: Path) -> str:
    """Return a hash of source files, so that what was computed by other code is noticed.

    Args:
        paths: The files.
        root: The folder that their names are relative to.
    """
    digest = hashlib.sha256()
    for path in paths:
        # The name too, or moving code from one file to the next would go unnoticed.
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:20]


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves either the old file or the new one, never half of it.

    The bytes go into a neighbor of the file, reach the disk, and then take its place.

    Args:
        path: The file; its folder is made where it is missing.
        content: Its bytes.

    Raises:
        OSError: If the disk is full or cannot be written; the old file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    neighbor = path.with_name(path.name + ".part")  # the same name every time, so that a kill leaves one at most
    try:
        if neighbor.is_symlink():
            neighbor.unlink()
        with open(neighbor, "wb", opener=_unlinked) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        neighbor.replace(path)
    finally:
        neighbor.unlink(missing_ok=True)


def _unlinked(path: str, flags: int) -> int:
    """Open a file to write it, and refuse a link, which would lead the bytes elsewhere."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)  # Windows knows no such flag


def write_json(path: Path, value: Any) -> None:
    """Write JSON as a whole; see `write_whole`."""
    write_whole(path, json.dumps(value, indent=1).encode())
