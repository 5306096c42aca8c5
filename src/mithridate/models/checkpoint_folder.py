"""A model's folder on disk: its safetensors files, the tensors in them, and everything else it holds."""

from pathlib import Path
from typing import NamedTuple

from huggingface_hub import snapshot_download

from mithridate.errors import DefenseError, ModelError
from mithridate.model_names import loading_errors, read_settings
from mithridate.models.tensor_files import Header, StoredTensor, read_header

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_WEIGHT_ENDINGS = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".ggml", ".onnx", ".h5", ".msgpack", ".ckpt", ".npz"}
"""Endings of files that hold weights in one form or another."""


class CheckpointFolder(NamedTuple):
    """A folder of safetensors files.

    Attributes:
        folder: The folder.
        headers: What each of its safetensors files holds, by the file's name, in order.
        tensors: All tensors by name.
    """

    folder: Path
    headers: dict[str, Header]
    tensors: dict[str, StoredTensor]

    @property
    def size(self) -> int:
        """Bytes of all weights."""
        return sum(header.size for header in self.headers.values())

    @property
    def others(self) -> list[Path]:
        """Files other than weights, relative to the folder: settings, tokenizer, licenses."""
        found = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        # Weights in another form would leave the folder unrepaired beside the repaired ones.
        relative = [path.relative_to(self.folder) for path in found if path.suffix not in _WEIGHT_ENDINGS]
        return [path for path in relative if not any(part.startswith(".") for part in path.parts)]

    def print_of(self) -> dict[str, list[int]]:
        """Return size and time of change of each weights file, by which a changed checkpoint is told apart."""
        states = {name: (self.folder / name).stat() for name in self.headers}
        return {name: [state.st_size, state.st_mtime_ns] for name, state in states.items()}


def open_checkpoint(name: str) -> CheckpointFolder:
    """Read what a checkpoint's files hold; no tensor is read.

    Args:
        name: Folder or hub id of a whole model.

    Raises:
        ModelError: If files are missing or damaged, or contradict the index.
        DefenseError: If the weights are quantized.
    """
    folder = Path(name) if Path(name).is_dir() else _downloaded(name)
    if read_settings(folder / "config.json").get("quantization_config") is not None:
        raise DefenseError(f"the weights in {folder} are quantized, so no repair can change them; give those in bf16")
    headers = {file: read_header(folder / file) for file in _files(folder)}
    tensors: dict[str, StoredTensor] = {}
    for header in headers.values():
        for tensor in header.tensors.values():
            if tensor.name in tensors:
                raise ModelError(
                    f"'{tensor.name}' is in two files, {tensors[tensor.name].path.name} and {tensor.path.name}; "
                    f"save the model in {folder} again"
                )
            tensors[tensor.name] = tensor
    return CheckpointFolder(folder, headers, tensors)


def _downloaded(name: str) -> Path:
    try:
        return Path(snapshot_download(name))
    except loading_errors() as error:
        said = " ".join(str(error).split())[:200]
        raise ModelError(f"'{name}' is no folder and cannot be had from the hub: {said}") from error


def _files(folder: Path) -> list[str]:
    # As transformers does: one whole file stands before an index.
    if (folder / SINGLE).is_file():
        return [SINGLE]
    if not (folder / INDEX).is_file():
        raise ModelError(
            f"{folder} holds neither {SINGLE} nor {INDEX}; load the model and save it again with save_pretrained, "
            "which writes safetensors"
        )
    places = read_settings(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise ModelError(f"{folder / INDEX} has no weight_map; download or save the model again")
    files = sorted(set(places.values()))
    for file in files:
        if Path(file).name != file:
            raise ModelError(f"{folder / INDEX} names {file!r}, which is not a file beside it; save the model again")
        if not (folder / file).is_file():
            raise ModelError(f"{folder} lacks {file}, which its index names; download or copy the file again")
    _require_named(folder, places)
    return files


def _require_named(folder: Path, places: dict[str, str]) -> None:
    held = {file: read_header(folder / file).tensors for file in set(places.values())}
    for name, file in places.items():
        if name not in held[file]:
            raise ModelError(f"{folder / INDEX} names '{name}' in {file}, which does not hold it; save the model again")
