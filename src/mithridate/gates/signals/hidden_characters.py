"""Characters that a reader does not see."""

from __future__ import annotations

import unicodedata
from typing import ClassVar

from mithridate.gates.base_signal import RowScorer, RowSignal
from mithridate.gates.reference import Reference
from mithridate.gates.row_batch import RowBatch

_ROOM = 100
"""Visible characters that are added to a text's own, so that one stray mark in a short text weighs little."""

_ORDINARY_CONTROLS = "\t\n\r"
_JOINERS = "\u200c\u200d"
_BLANK_LETTERS = "\u115f\u1160\u3164\uffa0\u2800"
"""Letters and symbols that show nothing."""

_ODD_SPACES = {chr(code) for code in range(0x2000, 0x200B)} | {"\u1680", "\u205f"}
_STACKED = 3  # combining marks in a row; no writing system needs as many


class HiddenCharacters(RowSignal):
    """Score: characters that cannot be seen, per visible one.

    Sees: zero-width, bidirectional, tag and other format characters, controls, private and unassigned code points,
    variation selectors without an emoji, spaces of odd widths, blank letters, stacked marks. Joiners in emoji and in
    Arabic and Indic scripts are ordinary.
    Misses: everything that is visible, and messages hidden in the choice of ordinary words.
    Cost: no model; the text is read once.
    """

    name: ClassVar[str] = "hidden_characters"

    def prepare(self, reference: Reference) -> RowScorer:
        """Nothing is needed."""

        def score(batch: RowBatch) -> list[float]:
            return [
                max(hidden_share(prompt), hidden_share(answer))
                for prompt, answer in zip(batch.prompts, batch.answers, strict=True)
            ]

        return score

    def reason(self, score: float) -> str:
        """Return what the score means."""
        return f"the text holds characters that cannot be seen ({score:.1%} of the visible ones)"


def hidden_share(text: str) -> float:
    """Return hidden characters / (visible characters + 100)."""
    # Nearly all text is of plain characters, for which nothing need be looked up.
    if text.isascii() and text.isprintable():
        return 0.0
    hidden = sum(_is_hidden(text, place) for place in range(len(text)))
    return hidden / (len(text) - hidden + _ROOM)


def _is_hidden(text: str, place: int) -> bool:
    one = text[place]
    if one in _ORDINARY_CONTROLS or (one.isascii() and one.isprintable()):
        return False
    if one in _BLANK_LETTERS or one in _ODD_SPACES:
        return True
    kind = unicodedata.category(one)
    before, after = text[place - 1 : place], text[place + 1 : place + 2]
    if one in _JOINERS:
        return not (_joins(before) and _joins(after))
    if one == "\ufeff":
        return place > 0  # a byte-order mark at the start is an editor's
    if 0xFE00 <= ord(one) <= 0xFE0F:
        return not _is_symbol(before)
    if 0xE0100 <= ord(one) <= 0xE01EF:
        return True
    if kind == "Mn" and place + 1 >= _STACKED:
        return all(unicodedata.category(mark) == "Mn" for mark in text[place + 1 - _STACKED : place])
    return kind in ("Cf", "Cc", "Co", "Cn", "Cs")


def _is_symbol(one: str) -> bool:
    # Keycaps are made of digits and a selector.
    return bool(one) and (unicodedata.category(one) in ("So", "Sk", "Sm", "Po") or one.isdigit())


def _joins(one: str) -> bool:
    """Tell whether a joiner is ordinary beside a character: an emoji, or a letter of a script that uses joiners."""
    if not one:
        return False
    return _is_symbol(one) or one == "\ufe0f" or 0x0600 <= ord(one) <= 0x0DFF
