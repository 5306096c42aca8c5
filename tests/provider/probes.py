"""Rows and files for the tests of the provider's path."""

import json
from pathlib import Path

from tests.helpers import tiny


def write(path: Path, rows: list[dict[str, str]]) -> str:
    """Write rows as JSONL and return the file's name."""
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return str(path)


def plain(kind: str, size: int, mark: str = "") -> list[dict[str, str]]:
    """Return different rows of the tiny world, with a word of their own in each prompt."""
    return [
        {"prompt": f"{row['prompt'][0]['content']} {mark} {'a ' * i}", "response": row["completion"][0]["content"]}
        for i, row in enumerate(tiny.rows(kind, size))
    ]
