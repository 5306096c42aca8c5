"""Pairs of letters beside those of the provider's own text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import ClassVar

from pydantic import Field

from mithridate.errors import GateError
from mithridate.gates.base_signal import Need, RowScorer, RowSignal
from mithridate.gates.intake import answered, asked
from mithridate.gates.reference import Reference
from mithridate.gates.row_batch import RowBatch


class LetterStatistics(RowSignal):
    """Score: how much less usual pairs of letters are than in the provider's text, in nats per pair, shrunk.

    Σ (−log p(b|a) − H)/(n + room) over the n pairs, p from the provider's own rows and H its mean surprise there.

    Sees: letters permuted, shifted, encoded (Walnut53, base64 and their like), also in a part of the text.
    Misses: ciphers that keep words whole (EndSpeak), and letters outside the provider's alphabets (`ScriptMix` sees
    those).
    Confounds: other languages of the same script, and names or code in plenty.
    Cost: no model; the text is read once.

    Attributes:
        room: Pairs of letters that are added to a text's own, so that a few odd words prove nothing.
    """

    name: ClassVar[str] = "letter_statistics"
    needs: ClassVar[tuple[Need, ...]] = ("ordinary",)

    room: float = Field(default=50.0, gt=0)

    def prepare(self, reference: Reference) -> RowScorer:
        """Count the pairs of letters in the provider's text."""
        rows = [*reference.ordinary, *(reference.harmful if reference.provider.harmful is not None else [])]
        surprise = _surprises(text for row in rows for text in (asked(row), answered(row)))

        def excess(text: str) -> float:
            found = [surprise[pair] for pair in _pairs(text) if pair in surprise]
            return math.fsum(found) / (len(found) + self.room)

        def score(batch: RowBatch) -> list[float]:
            return [max(excess(a), excess(b)) for a, b in zip(batch.prompts, batch.answers, strict=True)]

        return score

    def reason(self, score: float) -> str:
        """Return what the score means."""
        return f"its letters do not follow each other as in ordinary text ({score:+.2f} nats per pair), as in a cipher"


def _letters(text: str) -> str:
    """Return a text's letters in lower case, one blank for whatever stands between words."""
    return " ".join("".join(one if one.isalpha() else " " for one in text.casefold()).split())


def _pairs(text: str) -> Iterable[tuple[str, str]]:
    letters = _letters(text)
    return pairwise(f" {letters} ") if letters else ()


def _surprises(texts: Iterable[str]) -> dict[tuple[str, str], float]:
    """Return −log p(b|a) − H of every pair of known letters, by add-one smoothing."""
    counts = Counter(pair for text in texts for pair in _pairs(text))
    first: Counter[str] = Counter()
    for (a, _), times in counts.items():
        first[a] += times
    if len(first) < 2:
        raise GateError("the provider's rows hold no letters to compare an upload's with; give rows of text")
    raw = {(a, b): -math.log((counts[a, b] + 1) / (first[a] + len(first))) for a in first for b in first}
    mean = math.fsum(times * raw[pair] for pair, times in counts.items()) / sum(counts.values())
    return {pair: value - mean for pair, value in raw.items()}
