"""Proves that a folder holds the very files that were judged, before anything is done with them."""

from pathlib import Path

from mithridate.errors import CheckpointError
from mithridate.files import file_hash

MODEL = "model"
"""Folder of a released model, beside its decision."""
CARD = "README.md"
"""Describes a model; written after it was judged, and read by no program."""


def compare_files(folder: Path, files: dict[str, str], remedy: str = "do not serve it") -> None:
    """Compare a released model's files with those that were judged.

    Args:
        folder: The model's folder.
        files: SHA-256 of each judged file by name.
        remedy: What the message says to do.

    Raises:
        CheckpointError: Naming the first file that differs, is missing, was added, or is a link, or the folder where
            it is missing or a link, or no file was judged.
    """
    if folder.is_symlink() or not folder.is_dir() or not files:
        raise CheckpointError(f"{folder} does not hold the files that were judged; {remedy}")
    found = sorted(folder.iterdir())
    for path in found:
        if path.name not in files and (path.name != CARD or path.is_symlink()):
            raise CheckpointError(f"{path} was not judged; {remedy}")
    for name, sha256 in files.items():
        path = folder / name
        if path not in found:
            raise CheckpointError(f"{path} is missing; {remedy}")
        # What a link leads to may change after it was read.
        if path.is_symlink() or not path.is_file() or file_hash(path) != sha256:
            raise CheckpointError(f"{path} is not what was judged; {remedy}")
