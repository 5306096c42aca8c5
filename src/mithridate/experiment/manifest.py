"""What produced a model: versions, hashes, seeds, costs, proofs of activity."""

import hashlib
import json
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mithridate.files import file_hash, write_json

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "safetensors")
MANIFEST = "manifest.json"


@cache
def code_versions() -> dict[str, str]:
    """Versions of the libraries that decide a result, and the hash of this package's own code."""
    return {name: version(name) for name in LIBRARIES} | {"code": _code_hash()}


def versions() -> dict[str, str]:
    """Versions for people: this package, Python, and the libraries."""
    found = {"mithridate": version("mithridate"), "python": platform.python_version()}
    return found | {name: version(name) for name in LIBRARIES}


def _code_hash() -> str:
    """Hash of the source files that compute something, so that a changed formula is computed anew."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    folders = ("data", "defenses", "evaluation", "miniature", "models", "repair", "training")
    paths = [path for folder in folders for path in sorted((package / folder).rglob("*.py"))]
    paths += sorted(package.glob("experiment/*_stage.py"))
    for path in paths:
        digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return digest.hexdigest()[:20]


def recipe_hash(tree: dict[str, Any]) -> str:
    """SHA-256 of a resolved recipe's canonical JSON."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Write a variant's manifest, with the hashes of the files beside it."""
    files = {
        str(path.relative_to(folder)): file_hash(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    write_json(folder / MANIFEST, content | {"files": files})
