"""Names of models: a folder, a hub id, or the embedded model; what looks like a folder is never looked up in a hub."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from mithridate.data.faults import kind
from mithridate.errors import ModelError
from mithridate.nearest import nearest

_HUB = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")
_TOKENIZER = ("tokenizer*", "vocab*", "*.model", "*.tiktoken", "tekken.json", "merges.txt")
_SETTINGS = ("config.json", "tokenizer_config.json", "tokenizer.json")
_SAVE = "save it again with save_pretrained"
_SHOWN = 6  # folders that a message lists


def locate(name: str, *, tokenizer: bool = False) -> str:
    """Return a model's folder or hub id, from a path, a hub id, or ``miniature:base``.

    Args:
        name: The model; ``$MITHRIDATE_DATA`` is filled in and ``~`` is expanded.
        tokenizer: Whether a folder must hold a tokenizer too.

    Raises:
        ModelError: The name is neither a folder with a model nor of the form of a hub id, or the miniature is unknown.
    """
    if name.startswith("miniature:"):
        from mithridate.miniature import base

        if name != "miniature:base":
            raise ModelError(f"there is no '{name}'; the embedded model is called 'miniature:base'")
        return str(base())
    path = path_of(name)
    if path.is_dir():
        _check_folder(path, tokenizer)
        return str(path)
    if path.exists():
        raise ModelError(f"{path} is no folder with a model but a file; give the folder that holds config.json")
    if not _is_hub_id(name):
        raise ModelError(f"{path} is no folder with a model: there is no such folder; {_nearby(path)}")
    return name


def path_of(name: str) -> Path:
    """Return a model's name as a path, whether or not there is such a folder.

    Raises:
        ModelError: It cannot be a path.
    """
    if not name.strip() or "\0" in name:
        raise ModelError(f"the model's name is {name!r}; give a folder or a hub id")
    if "$MITHRIDATE_DATA" in name and not os.environ.get("MITHRIDATE_DATA"):
        raise ModelError(
            f"model: {name} uses $MITHRIDATE_DATA, which is not set; set MITHRIDATE_DATA to the folder of the data"
        )
    filled = name.replace("$MITHRIDATE_DATA", os.environ.get("MITHRIDATE_DATA", ""))
    try:
        path = Path(filled).expanduser()
        path.is_dir()
    except (RuntimeError, OSError) as error:  # a user without a home, a name that is too long
        raise ModelError(f"the model's name {name[:80]!r} is no path; give a folder or a hub id") from error
    return path


def _is_hub_id(name: str) -> bool:
    """Tell whether a name that is no folder can be a hub id: name or org/name, where no folder is called org."""
    if not _HUB.fullmatch(name) or ".." in name or "--" in name:
        return False
    return "/" not in name or not Path(name.split("/")[0]).is_dir()


def _nearby(path: Path) -> str:
    """What exists where the folder was looked for."""
    parent = next((above for above in path.absolute().parents if above.is_dir()), Path("/"))
    try:
        folders = sorted(found.name for found in parent.iterdir() if found.is_dir() and not found.name.startswith("."))
    except OSError as error:
        return f"{parent} cannot be read ({error.strerror})"
    missing = path.absolute().relative_to(parent).parts[0]
    near = nearest(missing, folders)
    if near:
        return f"did you mean {parent / near}?"
    shown = ", ".join(folders[:_SHOWN]) + (", …" if len(folders) > _SHOWN else "")
    return f"{parent} holds {f'the folders {shown}' if folders else 'no folders'}"


def adapter_base(folder: Path) -> str | None:
    """Return the folder or hub id of the model that an adapter acts on; None where the folder holds no adapter.

    Raises:
        ModelError: The adapter has no weights, or does not say what its base is, or there is no such model.
    """
    config = folder / "adapter_config.json"
    if not config.is_file():
        return None
    base = read_settings(config).get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise ModelError(f"{config} names no base model; set base_model_name_or_path in it")
    if not _holds(folder, ("adapter_model.safetensors", "adapter_model.bin")):
        raise ModelError(f"{folder} is no folder with an adapter: it lacks adapter_model.safetensors; {_SAVE}")
    try:
        return locate(base, tokenizer=True)
    except ModelError as error:
        raise ModelError(f"the base that {config} names: {error}") from error


def read_settings(path: Path) -> dict[str, Any]:
    """Read a JSON file of a model's folder.

    Raises:
        ModelError: It cannot be read or holds no object.
    """
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({_first_line(error)}); {_SAVE}") from error
    if not isinstance(settings, dict):
        raise ModelError(f"{path} holds {kind(settings)}, not settings; {_SAVE}")
    return settings


def loading_errors() -> tuple[type[Exception], ...]:
    """Return what the libraries raise for a folder whose files are damaged or do not fit each other."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    return (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError, StrictDataclassError)


def _check_folder(path: Path, tokenizer: bool) -> None:
    missing = []
    if not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            raise ModelError(f"{path} holds a LoRA adapter and no whole model; give its base, or merge the two")
        missing.append("config.json")
    if not _holds(path, _WEIGHTS):
        missing.append("weights (*.safetensors)")
    if tokenizer and not _holds(path, _TOKENIZER):
        missing.append("a tokenizer (tokenizer.json)")
    if missing:
        raise ModelError(f"{path} is no folder with a model: it lacks {' and '.join(missing)}; {_SAVE}")
    for name in _SETTINGS[: 1 + 2 * tokenizer]:
        if (path / name).is_file():
            read_settings(path / name)


def _holds(path: Path, patterns: tuple[str, ...]) -> bool:
    return any(next(path.glob(pattern), None) is not None for pattern in patterns)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
