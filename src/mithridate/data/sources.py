"""Rows and prompts by name: a file, or a set of the embedded world."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mithridate.data.faults import Fault, FaultLog, Rejected
from mithridate.data.fields import RowFields
from mithridate.data.messages import checked_text
from mithridate.data.overlap import last_user_turn
from mithridate.data.records import decode, pieces, records
from mithridate.data.rows import load_rows
from mithridate.errors import UsageError

if TYPE_CHECKING:
    from datasets import Dataset

MINIATURE = "miniature:"
_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = (".jsonl", ".json", ".gz", ".txt")


def open_rows(source: str | Path, fields: RowFields | None = None) -> Dataset:
    """Return training rows by name.

    Args:
        source: Path of a data file, or `miniature:…`.
        fields: Templates for files whose fields are not those of a known format.

    Raises:
        DataError: The file has faults.
        UsageError: The name is a hub id, or `fields` is given for the embedded world.
    """
    name = str(source)
    if name.startswith(MINIATURE):
        if fields:
            raise UsageError(f"{name} has rows of its own form; remove the fields setting.")
        return _miniature(name)
    _refuse_hub_id(name)
    return load_rows(source, fields)


def read_prompts(source: str | Path) -> list[str]:
    """Return the prompts of an evaluation set, in order.

    Args:
        source: JSONL or JSON with a string field `prompt`, a `.txt` file with one prompt per line (each also
            as `.gz`), or `miniature:…`, whose last user turns are taken.

    Raises:
        DataError: The file has faults.
        UsageError: The name is a hub id.
    """
    name = str(source)
    if name.startswith(MINIATURE):
        return [last_user_turn(prompt) for prompt in _miniature(name)["prompt"]]
    _refuse_hub_id(name)
    path = Path(source)
    log = FaultLog(name)
    prompts: list[str] = []
    is_text = name.removesuffix(".gz").endswith(".txt")
    for item in _text_prompts(path) if is_text else _field_prompts(path):
        if isinstance(item, Fault):
            log.add(item)
        else:
            prompts.append(item)
    log.raise_any()
    return prompts


def _text_prompts(path: Path) -> list[str | Fault]:
    found: list[str | Fault] = []
    for piece in pieces(path):
        if isinstance(piece, Fault):
            found.append(piece)
            continue
        try:
            found.append(checked_text(decode(piece.raw), "prompt"))
        except Rejected as rejected:
            found.append(rejected.at(f"{path}:{piece.line}"))
    return found


def _field_prompts(path: Path) -> list[str | Fault]:
    found: list[str | Fault] = []
    for record in records(path):
        if isinstance(record, Fault):
            found.append(record)
            continue
        try:
            if "prompt" not in record.fields:
                raise Rejected("no key 'prompt'", "an object with a string 'prompt'")
            found.append(checked_text(record.fields["prompt"], "prompt"))
        except Rejected as rejected:
            found.append(rejected.at(f"{path}:{record.line}"))
    return found


def _miniature(name: str) -> Dataset:
    from mithridate.miniature import rows  # built on first use, and nobody else pays for it

    return rows(name)


def _refuse_hub_id(name: str) -> None:
    if _HUB.fullmatch(name) and not name.endswith(_FILES) and not Path(name).exists():
        raise UsageError(
            f"{name!r} is no existing file; if it is a data set of the hub, download it to a JSONL file"
            " and give that file's path (data sets can run code when loaded by name)."
        )
