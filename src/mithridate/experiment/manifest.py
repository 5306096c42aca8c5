"""Records what produced a model: versions, hashes, seeds, costs, proofs of activity."""

import hashlib
import json
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mithridate.evaluation.vllm.environment import Engine, vllm_version
from mithridate.files import file_hash, source_hash, write_json

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "safetensors")
MANIFEST = "manifest.json"


@cache
def code_versions() -> dict[str, str]:
    """Return the versions of the libraries that decide a result, and the hash of this package's own code."""
    # The hash rather than our version: during development the code changes and the version does not.
    return {name: version(name) for name in LIBRARIES} | {"code": _code_hash()}


def versions(engine: Engine = "transformers") -> dict[str, str]:
    """Return the versions that people ask for: this package, Python, the libraries, and vLLM where it answers."""
    found = {"mithridate": version("mithridate"), "python": platform.python_version()}
    found |= {name: version(name) for name in LIBRARIES}
    return found | {"vllm": vllm_version()} if engine == "vllm" else found


def _code_hash() -> str:
    """Return a hash of the source files that compute something, so that a changed formula is computed anew."""
    package = Path(__file__).parent.parent
    return source_hash(deciding_files(package), package)


_CODE = (".py", ".jinja")
"""A chat template decides what tokens a row becomes, as code does."""


STAGE_FILES = (
    "asked_model", "launch", "release_evaluation", "row_files", "shared_work", "stage_folder", "step_figures",
)  # fmt: skip
"""What stages are made of, beside their own files."""


def deciding_files(package: Path) -> list[Path]:
    """Return the source files of the package that decide what a stage computes."""
    # Without report, cli and the engine itself: a new table or message must not discard days of finished stages.
    folders = ("attacks", "data", "defenses", "evaluation", "miniature", "models", "repair", "training")
    paths = [path for folder in folders for path in sorted((package / folder).rglob("*")) if path.suffix in _CODE]
    # What the stages are made of: settings holds what `strength` means, stage_folder which weights the next one starts
    # from, asked_model how a model is asked, release_evaluation the attacks on a finished model, row_files how rows are
    # read back, step_figures what a training tells of its steps; launch and shared_work, how several processes share a
    # stage.
    paths += sorted(package.glob("experiment/*_stage.py"))
    paths += [package / f"experiment/{name}.py" for name in STAGE_FILES]
    paths.append(package / "settings.py")
    return paths


def recipe_hash(tree: dict[str, Any]) -> str:
    """Return the SHA-256 of a resolved recipe's canonical JSON."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Write a variant's manifest, with the hashes of the files beside it."""
    files = {
        str(path.relative_to(folder)): file_hash(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    write_json(folder / MANIFEST, content | {"files": files})
