"""Proves that a folder holds the very files that were judged, before anything is done with them."""

from pathlib import Path

from mithridate.errors import CheckpointError
from mithridate.files import file_hash

MODEL = "model"
"""Folder of a released model, beside its decision."""
CARD = "README.md"
"""Describes a model; written after it was judged, and read by no program."""


def compare_files(folder: Path, files: dict[str, str]) -> None:
    """Compare a released model's files with those that were judged.

    Raises:
        CheckpointError: If one differs, is missing, was added, or is a link.
    """
    found = {path.name for path in folder.iterdir()} - {CARD} if folder.is_dir() else set()
    if not files or found != set(files):
        raise CheckpointError(f"{folder} does not hold the files that were judged; do not serve it")
    for name, sha256 in files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file() or file_hash(path) != sha256:
            raise CheckpointError(f"{path} is not what was judged; do not serve it")
