"""What decides a stage's result: all that its key in the store covers."""

import functools
from pathlib import Path
from typing import Any

from mithridate.defenses.plugins import fingerprint
from mithridate.defenses.registry import method
from mithridate.errors import RecipeError
from mithridate.experiment.jobs import EvaluationJob, Job, RepairJob, TrainingJob
from mithridate.experiment.manifest import code_versions
from mithridate.files import file_hash

MODEL_FILES = (".json", ".safetensors", ".jinja", ".model", ".txt", ".tiktoken")
"""Endings of the files that decide what a model answers."""
JUDGE_FILES = (*MODEL_FILES, ".bin")
"""The same for a judge, which may be of an older form; models are loaded from safetensors alone."""


def identity_of(job: Job, origin: Any) -> dict[str, Any]:
    """Return everything that decides what a stage's result is.

    Args:
        job: What the stage does.
        origin: Key of the stage before it, or the identity of the model it starts from.
    """
    return {
        "parent": origin,
        "versions": code_versions(),
        "job": job.model_dump(mode="json"),
        **_named_files(job),
    }


def _named_files(job: Job) -> dict[str, Any]:
    """Return the contents of what a job names by path alone: a plug-in, a chat template, a judge on this machine."""
    found: dict[str, Any] = {}
    # The code of our own defenses is among the versions; a plug-in's is not.
    plugins = list(filter(None, map(fingerprint, _defenses(job))))
    if plugins:
        found["plugins"] = plugins
    if job.template is not None and Path(job.template).is_file():
        found["template"] = file_hash(Path(job.template))
    for place, one in enumerate((job.judge, *job.further_judges) if isinstance(job, EvaluationJob) else ()):
        folder = None if one.model is None or one.url is not None else Path(one.model).expanduser()
        if folder is not None and folder.is_dir():
            found[f"judge {place}" if place else "judge"] = _contents(folder, JUDGE_FILES)
    return found


def _defenses(job: Job) -> list[type]:
    """Return the class of the defense that acts, and of the one that it trains with."""
    names = [job.method] if job.method else []
    if isinstance(job, (RepairJob, TrainingJob)):
        inside = job.defense.build(job.stage).trains_with
        names += [inside] if inside else []
    return [method(name).cls for name in names]


def model_identity(location: str) -> Any:
    """Return the hashes of a local model's files; for a hub model its name.

    Raises:
        RecipeError: If a folder holds no weights.
    """
    folder = Path(location).expanduser()
    if not folder.is_dir():
        return location
    found = _contents(folder, MODEL_FILES)
    if not any(name.endswith(".safetensors") for name in found):
        raise RecipeError(f"{folder} holds no .safetensors weights; save the model with save_pretrained")
    return found


def _contents(folder: Path, endings: tuple[str, ...]) -> dict[str, str]:
    """Return the hashes of the files that decide what a model answers; a changed README decides nothing."""
    files = sorted(path for path in folder.iterdir() if path.suffix in endings)
    return {path.name: _hashed(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files}


# Asked for by every first stage of a chain, and a 7B model is 13 GB to read.
@functools.cache
def _hashed(path: Path, size: int, changed: int) -> str:
    """Return the SHA-256 of a file, computed anew only when its size or time of change differs."""
    return file_hash(path)
