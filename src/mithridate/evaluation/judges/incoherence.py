"""The papers' sign of broken text, by which they count HS+: one word repeated in a row."""

import string

REPEATS = 3  # more than this many in a row is incoherent


def longest_repeat(answer: str) -> int:
    """Longest run of one word, 0 where there is none.

    Case and punctuation around a word do not matter; tokens of punctuation alone, as in tables and rules,
    break a run and are no words.
    """
    run, longest, last = 0, 0, ""
    for token in answer.casefold().split():
        word = token.strip(string.punctuation)
        run = run + 1 if word and word == last else 1
        last = word
        longest = max(longest, run if word else 0)
    return longest


def incoherent(answer: str) -> bool:
    """Whether any word is repeated more than three times in a row (HS+ of Antibody and Panacea's evaluation).

    It misses loops of several words; `mithridate.evaluation.coherence.broken` does not.
    """
    return longest_repeat(answer) > REPEATS
