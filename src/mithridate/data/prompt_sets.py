"""Prompts of evaluation sets, from every source that rows can be read from, and from plain text."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from mithridate.data.data_sources import MINIATURE, DataSource, open_data
from mithridate.data.file_records import decode, raw_rows
from mithridate.data.messages import checked_text
from mithridate.data.overlap import last_user_turn
from mithridate.data.row_faults import Fault, FaultLog, Rejected
from mithridate.data.row_keys import is_empty
from mithridate.data.row_reader import written_rows
from mithridate.nearest import nearest

_ASKED = ("system", "system_prompt", "history", "context", "input", "messages", "conversations", "instruction")
"""Keys that would change what a prompt asks."""


def read_prompts(
    source: str | Path, ignore: Collection[str] = (), *, subset: str | None = None, split: str | None = None
) -> list[str]:
    """Return the prompts of an evaluation set, in order.

    Of a row, `prompt` alone is read, so that a key that would change what is asked is a fault: `system`, `history`,
    `context`, `input` and their like. Answers and remarks beside a prompt are left out.

    Args:
        source: A file, folder or hub data set as for `load_rows`, whose rows have a text `prompt`; a `.txt` file with
            one prompt per line, blanks around it left out (also as `.gz`); or `miniature:…`, whose last user turns
            are taken.
        ignore: Keys to leave out on purpose although they would change what is asked.
        subset: Which subset of a hub data set.
        split: Which split, where there are several.

    Raises:
        DataError: The prompts cannot be read or have faults.
        UsageError: `subset` or `split` cannot be used.
    """
    found = open_data(source, subset=subset, split=split, called="read_prompts")
    if found.name.startswith(MINIATURE):
        return [last_user_turn(row.fields["prompt"]) for row in written_rows(*found) if not isinstance(row, Fault)]
    # All faults are collected before raising, so that a user mends the file once.
    log = FaultLog(found.name)
    prompts: list[str] = []
    for item in _prompts(found, ignore):
        if isinstance(item, Fault):
            log.add(item)
        else:
            prompts.append(item)
    log.raise_any()
    return prompts


def _prompts(found: DataSource, ignore: Collection[str]) -> Iterator[str | Fault]:
    if isinstance(found.rows, Path) and found.name.lower().removesuffix(".gz").endswith(".txt"):
        yield from _lines(found.rows)
        return
    for row in written_rows(*found):
        if isinstance(row, Fault):
            yield row
            continue
        try:
            yield _prompt(row.fields, ignore)
        except Rejected as rejected:
            yield rejected.at(row.origin)


def _lines(path: Path) -> Iterator[str | Fault]:
    for line in raw_rows(path):
        if isinstance(line, Fault):
            yield line
            continue
        try:
            yield checked_text(decode(line.raw), "prompt")
        except Rejected as rejected:
            yield rejected.at(f"{path}:{line.line}")


def _prompt(fields: dict[str, Any], ignore: Collection[str]) -> str:
    if "prompt" not in fields:
        # Not accepted in its place: a near key such as `prompts` may hold something else.
        near = nearest("prompt", fields)
        meant = f" (did you mean it by '{near}'?)" if near else ""
        raise Rejected(f"no key 'prompt'{meant}", "an object with a string 'prompt'")
    for key in _ASKED:
        if key not in ignore and not is_empty(fields.get(key)):
            raise Rejected(
                f"key '{key}' beside the prompt", f"the whole question in 'prompt'; to leave it out, ignore '{key}'"
            )
    return checked_text(fields["prompt"], "prompt")
