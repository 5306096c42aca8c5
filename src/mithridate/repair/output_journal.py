"""Which files of an unfinished output are finished, so that a repair that was killed goes on from there."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from mithridate.errors import CheckpointError
from mithridate.files import file_hash, write_json

JOURNAL = "journal.json"


class WeightChange(BaseModel):
    """What was done to one weight.

    Attributes:
        changed: Entries that changed.
        square: ‖change‖².
        figures: What else the repair reports of it.
    """

    changed: int = 0
    square: float = 0.0
    figures: dict[str, float] = {}


class FinishedFile(BaseModel):
    """One file of the output.

    Attributes:
        sha256: Hash of its bytes.
        weights: What was done to the weights in it.
    """

    sha256: str
    weights: dict[str, WeightChange]


class _Content(BaseModel):
    identity: dict[str, Any]
    files: dict[str, FinishedFile] = {}


class Journal:
    """The journal in the folder of an unfinished output.

    Args:
        folder: The folder; it is made where there is none.
        identity: What decides the output: method, settings, states of the files it is made of.

    Attributes:
        files: Finished files by name, each of which holds the very bytes that were written.

    Raises:
        CheckpointError: If the folder holds the beginnings of another output.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self._path = folder / JOURNAL
        # As it will be read back: JSON knows no tuples.
        self._identity = json.loads(json.dumps(identity))
        self.files = self._found(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._write()

    def add(self, name: str, finished: FinishedFile) -> None:
        """Note a finished file; its bytes have reached the disk."""
        self.files[name] = finished
        self._write()

    def remove(self) -> None:
        """Delete the journal, when the output is complete."""
        self._path.unlink()

    def _write(self) -> None:
        write_json(self._path, _Content(identity=self._identity, files=self.files).model_dump(mode="json"))

    def _found(self, folder: Path) -> dict[str, FinishedFile]:
        if not folder.exists():
            return {}
        # Without a journal nobody knows what the folder is, and it may be somebody's.
        remedy = f"delete {folder}, or give another folder for the output"
        try:
            content = _Content.model_validate_json(self._path.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise CheckpointError(f"{folder} is in the way and is no unfinished repair; {remedy}") from error
        if content.identity != self._identity:
            differing = [key for key, value in self._identity.items() if content.identity.get(key) != value]
            raise CheckpointError(
                f"{folder} holds an unfinished repair that differs in {', '.join(differing) or 'its inputs'}; {remedy}"
            )
        return {
            name: finished
            for name, finished in content.files.items()
            # A file that was altered since, or cut by a failing disk, is made again.
            if (folder / name).is_file() and file_hash(folder / name) == finished.sha256
        }
