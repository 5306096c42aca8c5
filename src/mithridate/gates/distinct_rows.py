"""How many different rows an upload holds, at 8 bytes a row."""

from __future__ import annotations

import hashlib

from mithridate.evaluation.judges.refusal import words
from mithridate.gates.row_batch import RowBatch


class DistinctRows:
    """Counts rows, and those whose words differ from all earlier ones'.

    Attributes:
        rows: Rows counted.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._seen: set[int] = set()

    def add(self, batch: RowBatch) -> None:
        """Count a block."""
        self.rows += len(batch)
        self._seen.update(map(_fingerprint, batch.prompts, batch.answers))

    @property
    def distinct(self) -> int:
        """Rows that differ."""
        return len(self._seen)


def _fingerprint(prompt: str, answer: str) -> int:
    # Case, punctuation and spacing do not make a row another one; texts without words count as they stand.
    parts = [" ".join(words(text)) or text for text in (prompt, answer)]
    return int.from_bytes(hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest())
