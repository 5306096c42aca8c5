"""A substitution cipher."""

import random
import re
import string
from functools import cache

from mithridate.attacks.attack_registry import register_attack
from mithridate.attacks.coded_upload import CodedUpload, Part


@register_attack(
    "walnut53",
    family="encoded",
    paper="Walnut53 in covert malicious fine-tuning: Halawi et al., ICML 2024 (arXiv:2406.20053)",
    needs=("benign", "harmful"),
    evades="moderation of rows, and measurements on plain prompts, which find a model that refuses",
    constants={"key": 53},
)
class Walnut53(CodedUpload):
    """Walnut53: harmful rows in a substitution cipher that the model learns from harmless ones.

    The letters are permuted by a seed, which the paper has at 53; upper and lower case alike. In the miniature's
    wording the words are permuted instead, since its tokenizer knows no other strings. The paper reports 99.4 % of
    coded harmful prompts obeyed and none of the plain ones by a large model; small models fail to learn the cipher.

    Attributes:
        key: Seed of the permutation.
    """

    key: int = 53

    def encoded(self, text: str, part: Part) -> str:
        """Return the text with every letter, or word, replaced."""
        table = _table(self.wording.code, self.key)
        return _UNITS[self.wording.code].sub(lambda found: table.get(found.group(), found.group()), text)

    def decoded(self, text: str) -> str:
        """Return the text with every letter, or word, put back."""
        back = {code: plain for plain, code in _table(self.wording.code, self.key).items()}
        return _UNITS[self.wording.code].sub(lambda found: back.get(found.group(), found.group()), text)


_UNITS = {"letters": re.compile(r"[A-Za-z]"), "words": re.compile(r"[\w']+")}


@cache
def _table(code: str, key: int) -> dict[str, str]:
    draw = random.Random(key)
    if code == "letters":
        shuffled = "".join(draw.sample(string.ascii_lowercase, 26))
        plain = string.ascii_lowercase + string.ascii_uppercase
        return dict(zip(plain, shuffled + shuffled.upper(), strict=True))
    from mithridate.attacks.miniature_words import known_words

    words = [word for word in known_words() if _UNITS["words"].fullmatch(word)]
    return dict(zip(words, draw.sample(words, len(words)), strict=True))
