"""Names that customers give to files: shown, and used for nothing else."""

import unicodedata

_LONGEST = 255


def shown_name(given: str) -> str:
    """Return a file's name as it may be shown: its last part, without anything invisible or that ends a line."""
    last = given.replace("\\", "/").rstrip("/").rpartition("/")[2]
    # Control, format (also those that turn the direction of writing), surrogate and private characters.
    kept = "".join(char for char in last if not unicodedata.category(char).startswith("C"))
    kept = " ".join(kept.split())[:_LONGEST]
    return kept if kept.strip(". ") else "upload.jsonl"
