"""Checkpoints that hold everything, and are refused unless every byte is as it was written."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from mithridate.errors import CheckpointError, DefenseError
from mithridate.files import file_hash, write_json

MANIFEST = "mithridate-files.json"
FIGURES = "mithridate-state.json"
TENSORS = "mithridate-state.safetensors"


def seal(folder: Path) -> None:
    """List every file of a finished checkpoint with its hash; a folder without this list is unfinished."""
    # The list is written last: a crash while saving leaves a folder without one.
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    write_json(folder / MANIFEST, {str(path.relative_to(folder)): file_hash(path) for path in files})


def verify(folder: Path) -> None:
    """Compare a checkpoint with its list of files.

    Raises:
        CheckpointError: If the list or a file is missing, or a file was altered or cut.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise CheckpointError(f"{folder} has no {MANIFEST}: its saving never finished; resume from an earlier one")
    try:
        listed: dict[str, str] = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{manifest} is damaged ({error}); resume from an earlier checkpoint") from error
    for name, digest in listed.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; resume from an earlier checkpoint")
        if file_hash(path) != digest:
            raise CheckpointError(f"{path} was altered or cut after it was saved; resume from an earlier checkpoint")


def newest_finished(folder: Path) -> Path | None:
    """Return the newest checkpoint in a folder whose saving finished; None if there is none."""
    # As numbers: by name, checkpoint-9 would be newer than checkpoint-10.
    numbered = [
        (int(path.name.removeprefix("checkpoint-")), path)
        for path in folder.glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdigit() and (path / MANIFEST).is_file()
    ]
    return max(numbered)[1] if numbered else None


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write numbers and strings as JSON, tensors and lists of tensors as safetensors.

    Raises:
        DefenseError: If a name holds a slash, which stands between a list's name and the place of a tensor in it.
    """
    if slashed := [name for name in state if "/" in name]:
        raise DefenseError(f"step.memory has the name '{slashed[0]}'; a name there must not hold '/'")
    tensors: dict[str, Tensor] = {}
    figures: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, list) and value and isinstance(value[0], Tensor):
            # Zeros in front, so that the order of the names is that of the list.
            tensors |= {f"{name}/{index:06d}": tensor for index, tensor in enumerate(value)}
        else:
            figures[name] = value
    write_json(folder / FIGURES, figures)
    # safetensors refuses tensors that share memory or are not contiguous.
    save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, folder / TENSORS)


def load_state(folder: Path) -> dict[str, Any]:
    """Read what ``save_state`` wrote.

    Raises:
        CheckpointError: If a file is missing.
    """
    for name in (FIGURES, TENSORS):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing; the checkpoint was not written by DefendedTrainer")
    state: dict[str, Any] = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
    lists: dict[str, list[Tensor]] = {}
    for key, tensor in sorted(load_file(folder / TENSORS).items()):
        name, _, index = key.partition("/")
        if index:
            lists.setdefault(name, []).append(tensor)
        else:
            state[name] = tensor
    return state | lists
