"""Reads what was exported from OpenAI: training files, and the JSON of file and job records."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mithridate.errors import DataError, UsageError

_MOST_RECORD_BYTES = 64 << 20
JOB, FILE = "fine_tuning.job", "file"
"""What a record calls itself, in its field ``object``."""


class Exported(NamedTuple):
    """What was found.

    Attributes:
        files: Training files, in the order of their names.
        jobs: Job records, the oldest first.
        names: File names by the file's id, from file records.
    """

    files: list[Path]
    jobs: list[dict[str, Any]]
    names: dict[str, str]


def read_exported(places: Iterable[Path]) -> Exported:
    """Return what folders and files hold.

    Args:
        places: Folders, which are looked through with all below them, and files.

    Raises:
        UsageError: If a place does not exist.
        DataError: If a JSON file cannot be read.
    """
    files: list[Path] = []
    jobs: dict[str, dict[str, Any]] = {}
    names: dict[str, str] = {}
    for path in sorted(set(_paths(places))):
        if path.suffix == ".jsonl":
            files.append(path)
            continue
        for record in _records(path):
            if record.get("object") == JOB:
                jobs[_id(record, path)] = record
            elif record.get("object") == FILE and isinstance(record.get("filename"), str):
                names[_id(record, path)] = record["filename"]
    return Exported(files, sorted(jobs.values(), key=_age), names)


def _paths(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_dir():
            yield from (path for path in place.rglob("*") if path.suffix in (".json", ".jsonl") and path.is_file())
        elif not place.is_file():
            raise UsageError(f"{place} does not exist; give the folder or the files of an export")
        elif place.suffix not in (".json", ".jsonl"):
            raise UsageError(f"{place} is neither .jsonl (training rows) nor .json (records)")
        else:
            yield place


def _records(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file: one, a list, or a page of a list as the API answers it."""
    if path.stat().st_size > _MOST_RECORD_BYTES:
        raise DataError(f"{path} is longer than {_MOST_RECORD_BYTES} bytes; split the records into several files")
    try:
        tree = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON; export the records again") from error
    if isinstance(tree, dict) and isinstance(tree.get("data"), list):
        tree = tree["data"]
    found = tree if isinstance(tree, list) else [tree]
    if not all(isinstance(record, dict) for record in found):
        raise DataError(f"{path} holds no records; give the JSON that the API answered")
    return found


def _id(record: dict[str, Any], path: Path) -> str:
    name = record.get("id")
    if not isinstance(name, str) or not name or len(name) > 200:
        raise DataError(f"{path} holds a record without an id; export it again")
    return name


def _age(record: dict[str, Any]) -> tuple[float, str]:
    at = record.get("created_at")
    return (at if isinstance(at, int | float) else 0, record["id"])
