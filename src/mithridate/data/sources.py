"""Rows and prompts by name: a file, or a set of the embedded world."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mithridate.data.faults import Fault, FaultLog, Rejected
from mithridate.data.fields import RowFields
from mithridate.data.keys import is_empty
from mithridate.data.messages import checked_text
from mithridate.data.overlap import last_user_turn
from mithridate.data.records import decode, pieces, records
from mithridate.data.rows import load_rows
from mithridate.errors import UsageError
from mithridate.nearest import nearest

if TYPE_CHECKING:
    from datasets import Dataset

MINIATURE = "miniature:"
_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = (".jsonl", ".json", ".gz", ".txt", ".csv", ".tsv", ".xlsx", ".parquet", ".zip")
_ASKED = ("system", "system_prompt", "history", "context", "input", "messages", "conversations", "instruction")
"""Keys that would change what a prompt asks."""


def open_rows(source: str | Path, fields: RowFields | None = None, ignore: Collection[str] = ()) -> Dataset:
    """Return training rows by name.

    Args:
        source: Path of a data file, or `miniature:…`.
        fields: Templates for files whose fields are not those of a known format.
        ignore: Keys of the file's rows to leave out on purpose.

    Raises:
        DataError: The file has faults.
        UsageError: The name is a hub id, or `fields` or `ignore` is given for the embedded world.
    """
    name = str(source)
    if name.startswith(MINIATURE):
        if fields or ignore:
            setting = "fields" if fields else "ignore"
            raise UsageError(f"{name} has rows of its own form; remove the {setting} setting.")
        return _miniature(name)
    _refuse_hub_id(name)
    return load_rows(source, fields, ignore)


def read_prompts(source: str | Path, ignore: Collection[str] = ()) -> list[str]:
    """Return the prompts of an evaluation set, in order.

    Of a row, `prompt` alone is read, so that a key that would change what is asked is a fault: `system`, `history`,
    `context`, `input` and their like. Answers and remarks beside a prompt are left out.

    Args:
        source: JSONL, JSON, CSV or TSV with a text `prompt`, a `.txt` file with one prompt per line, blanks around it
            left out (each also as `.gz`), or `miniature:…`, whose last user turns are taken.
        ignore: Keys to leave out on purpose although they would change what is asked.

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
    for item in _text_prompts(path) if is_text else _field_prompts(path, ignore):
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


def _field_prompts(path: Path, ignore: Collection[str]) -> list[str | Fault]:
    found: list[str | Fault] = []
    for record in records(path):
        if isinstance(record, Fault):
            found.append(record)
            continue
        try:
            found.append(_prompt(record.fields, ignore))
        except Rejected as rejected:
            found.append(rejected.at(f"{path}:{record.line}"))
    return found


def _prompt(fields: dict[str, Any], ignore: Collection[str]) -> str:
    if "prompt" not in fields:
        near = nearest("prompt", fields)
        meant = f" (did you mean it by '{near}'?)" if near else ""
        raise Rejected(f"no key 'prompt'{meant}", "an object with a string 'prompt'")
    for key in _ASKED:
        if key not in ignore and not is_empty(fields.get(key)):
            raise Rejected(
                f"key '{key}' beside the prompt", f"the whole question in 'prompt'; to leave it out, ignore '{key}'"
            )
    return checked_text(fields["prompt"], "prompt")


def _miniature(name: str) -> Dataset:
    from mithridate.miniature import rows  # built on first use, and nobody else pays for it

    return rows(name)


def _refuse_hub_id(name: str) -> None:
    if _HUB.fullmatch(name) and not name.endswith(_FILES) and not Path(name).exists():
        raise UsageError(
            f"{name!r} is no existing file; if it is a data set of the hub, download it to a JSONL file"
            " and give that file's path (data sets can run code when loaded by name)."
        )
