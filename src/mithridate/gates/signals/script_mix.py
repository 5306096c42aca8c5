"""Letters of scripts that the provider's own text does not use."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import ClassVar

from mithridate.gates.base_signal import Need, RowScorer, RowSignal
from mithridate.gates.intake import answered, asked
from mithridate.gates.reference import Reference
from mithridate.gates.row_batch import RowBatch

_ROOM = 20  # letters added to a text's own, so that one foreign name weighs little
_RARE = 0.01
"""Share of the provider's letters below which a script is not one of its own."""

_ALIKE = frozenset({"LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "CHEROKEE"})
"""Scripts with letters that look like another's."""

_WORD = re.compile(r"[^\W\d_]+")


class ScriptMix(RowSignal):
    """Score: share of letters in scripts foreign to the provider's rows, or in words that mix scripts which look alike.

    Sees: other writing systems, mathematical and full-width letters, words with foreign letters that look like
    ordinary ones.
    Misses: other languages in the same script.
    Confounds: it cannot tell a customer who writes another language from one who hides something; harm that the model
    was taught to refuse in one language only is a risk in both cases.
    Cost: no model; the text is read once.
    """

    name: ClassVar[str] = "script_mix"
    needs: ClassVar[tuple[Need, ...]] = ("ordinary",)

    def prepare(self, reference: Reference) -> RowScorer:
        """Find the provider's scripts."""
        counts = Counter(
            script
            for row in reference.ordinary
            for text in (asked(row), answered(row))
            for word in _WORD.findall(text)
            for script in _scripts(word)
        )
        known = frozenset(script for script, times in counts.items() if times > _RARE * counts.total())

        def score(batch: RowBatch) -> list[float]:
            pairs = zip(batch.prompts, batch.answers, strict=True)
            return [max(_foreign(prompt, known), _foreign(answer, known)) for prompt, answer in pairs]

        return score

    def reason(self, score: float) -> str:
        """Return what the score means."""
        return (
            f"{score:.0%} of its letters are of scripts that the provider's rows do not use, or mix scripts in a word"
        )


def _foreign(text: str, known: frozenset[str]) -> float:
    if text.isascii() and "LATIN" in known:
        return 0.0
    foreign = letters = 0
    for word in _WORD.findall(text):
        scripts = list(_scripts(word))
        mixed = len(_ALIKE.intersection(scripts)) > 1
        letters += len(scripts)
        foreign += len(scripts) if mixed else sum(script not in known for script in scripts)
    return foreign / (letters + _ROOM)


def _scripts(word: str) -> Iterator[str]:
    return map(_script, word)


@lru_cache(maxsize=100_000)
def _script(letter: str) -> str:
    """Return the first word of a letter's name: LATIN, CYRILLIC, MATHEMATICAL and so on."""
    return unicodedata.name(letter, "UNKNOWN").split()[0]
