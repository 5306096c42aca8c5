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
    Misses: ciphers that keep words whole (EndSpeak), codes of digits or marks alone, and letters outside the
    provider's alphabets (`ScriptMix` sees those).
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
        pairs = _KnownPairs(text for row in rows for text in (asked(row), answered(row)))

        def excess(text: str) -> float:
            found = [value for pair in _pairs(text) if (value := pairs.surprise(pair)) is not None]
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


class _KnownPairs:
    """Counts of pairs of letters, of which few of all that are possible occur where there are many letters.

    Args:
        texts: The provider's text.

    Raises:
        GateError: If it holds no letters.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._counts = Counter(pair for text in texts for pair in _pairs(text))
        self._first: Counter[str] = Counter()
        for (a, _), times in self._counts.items():
            self._first[a] += times
        if len(self._first) < 2:
            raise GateError("the provider's rows hold no letters to compare an upload's with; give rows of text")
        raw = {pair: self._raw(pair) for pair in self._counts}
        self._mean = math.fsum(times * raw[pair] for pair, times in self._counts.items()) / self._counts.total()
        self._seen = {pair: value - self._mean for pair, value in raw.items()}

    def surprise(self, pair: tuple[str, str]) -> float | None:
        """Return −log p(b|a) − H, by add-one smoothing; None where a letter does not occur in the provider's text."""
        found = self._seen.get(pair)
        if found is None and pair[0] in self._first and pair[1] in self._first:
            return self._raw(pair) - self._mean
        return found

    def _raw(self, pair: tuple[str, str]) -> float:
        return -math.log((self._counts[pair] + 1) / (self._first[pair[0]] + len(self._first)))
