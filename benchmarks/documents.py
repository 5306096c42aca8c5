"""Puts figures into a document, between the marks of their name."""

import re
from pathlib import Path


def put(text: str, document: Path, name: str) -> None:
    """Put a text between ``<!-- name -->`` and ``<!-- /name -->``.

    Raises:
        SystemExit: The document lacks the marks.
    """
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    whole = document.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(first)}.*?{re.escape(last)}", re.DOTALL)
    if not pattern.search(whole):
        raise SystemExit(f"{document} lacks {first} and {last}")
    document.write_text(pattern.sub(lambda _: f"{first}\n{text}\n{last}", whole), encoding="utf-8")
