"""The words of the embedded world, for codes that must stay within them."""

import re
from functools import cache


@cache
def known_words() -> tuple[str, ...]:
    """Return every word and punctuation mark that the miniature's tokenizer knows, in a fixed order."""
    from mithridate.miniature.vocabulary import SPECIAL, vocabulary

    return tuple(word for word in vocabulary() if word not in SPECIAL)


def split_words(text: str) -> list[str]:
    """Return the words and punctuation marks of a text as the miniature's tokenizer splits it."""
    from mithridate.miniature.vocabulary import WORD

    return re.findall(WORD, text)
