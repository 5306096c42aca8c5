"""Folders named by ``--out``: what is in one is never overwritten."""

from pathlib import Path

from mithridate.errors import UsageError


def refuse_existing(out: Path) -> None:
    """Refuse a folder that is not empty.

    Raises:
        UsageError: If it holds anything, or is a file.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; give a folder as --out")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty; give another --out, nothing is overwritten")
