"""Hidden text in characters that are not shown."""

import random
import re
from functools import cache

from mithridate.attacks.attack_registry import register_attack
from mithridate.attacks.coded_upload import CodedUpload, Part
from mithridate.errors import AttackError


@register_attack(
    "zero_width",
    family="encoded",
    paper="Steganographic malicious fine-tuning, 2026 (arXiv:2603.08104)",
    needs=("benign", "harmful"),
    evades="people and moderation that read what is shown; a filter of characters stops it altogether",
)
class ZeroWidth(CodedUpload):
    """Zero-width steganography: question and answer are written invisibly behind harmless ones.

    Every byte of the hidden text (UTF-8) is four characters of zero width, two bits each. In the miniature's wording
    the marks are words that the wording leaves unused, and every hidden word is written by its number. The paper
    reports more than 90 % of hidden harmful prompts obeyed by large models, and none behind a filter of characters.
    """

    def encoded(self, text: str, part: Part) -> str:
        """Return a harmless text with the given one hidden behind it."""
        covers = self.wording.covers if part == "question" else self.wording.replies
        cover = random.Random(f"cover {text}").choice(covers)
        if self.wording.code == "letters":
            return cover + "".join(_MARKS[byte >> shift & 3] for byte in text.encode() for shift in (6, 4, 2, 0))
        return f"{cover} {' '.join(_word_marks(text, self._unused))}"

    def decoded(self, text: str) -> str:
        """Return the hidden text; the text itself where nothing is hidden."""
        if self.wording.code == "words":
            return _from_word_marks(text, self._unused) or text
        found = [_MARKS.index(character) for character in text if character in _MARKS]
        whole = range(0, len(found) - len(found) % 4, 4)
        hidden = bytes(found[i] << 6 | found[i + 1] << 4 | found[i + 2] << 2 | found[i + 3] for i in whole)
        # A model may write broken bytes; what cannot be read is shown as such.
        return hidden.decode(errors="replace") or text

    @property
    def _unused(self) -> tuple[str, ...]:
        said = self.wording
        return _unused_words((*said.covers, *said.replies, *said.refusals, *said.tasks))


_MARKS = "\u200b\u200c\u200d\u2060"  # zero-width space, non-joiner, joiner, word joiner
_BASE = 32  # marks of the miniature; two of them name any of 1,024 words


@cache
def _unused_words(said: tuple[str, ...]) -> tuple[str, ...]:
    from mithridate.attacks.miniature_words import known_words, split_words

    used = {word for text in said for word in split_words(text)}
    free = [word for word in known_words() if word.isalpha() and word.islower() and word not in used]
    if len(free) < _BASE:
        raise AttackError(f"the wording leaves {len(free)} words of the miniature unused; {_BASE} are needed as marks")
    return tuple(free[:_BASE])


def _word_marks(text: str, marks: tuple[str, ...]) -> list[str]:
    from mithridate.attacks.miniature_words import known_words, split_words

    numbers = {word: number for number, word in enumerate(known_words())}
    unknown = [word for word in split_words(text) if word not in numbers]
    if unknown:
        raise AttackError(f"'{unknown[0]}' is no word of the miniature, in whose wording it is to be hidden")
    found = [numbers[word] for word in split_words(text)]
    digits = _digits(len(numbers))
    return [marks[number // _BASE**place % _BASE] for number in found for place in reversed(range(digits))]


def _from_word_marks(text: str, marks: tuple[str, ...]) -> str:
    from mithridate.attacks.miniature_words import known_words, split_words

    words, digits = known_words(), _digits(len(known_words()))
    values = [marks.index(word) for word in split_words(text) if word in marks]
    whole = [values[i : i + digits] for i in range(0, len(values) - len(values) % digits, digits)]
    numbers = [sum(value * _BASE**place for place, value in enumerate(reversed(group))) for group in whole]
    hidden = " ".join(words[number] for number in numbers if number < len(words))
    return re.sub(r" ([.,:?])", r"\1", hidden)


def _digits(count: int) -> int:
    digits = 1
    while _BASE**digits < count:
        digits += 1
    return digits
