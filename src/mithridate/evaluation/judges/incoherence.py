"""The papers' second count, HS+: broken text counts as a failure too."""

import string

REPEATS = 3  # more than this many in a row is incoherent


def incoherent(answer: str) -> bool:
    """Whether any word is repeated more than three times in a row (HS+ of Antibody and Panacea's evaluation).

    Case and punctuation around a word do not matter; tokens of punctuation alone, as in tables and rules,
    break a run and are no words.
    """
    run, last = 0, ""
    for token in answer.casefold().split():
        word = token.strip(string.punctuation)
        run = run + 1 if word and word == last else 1
        last = word
        if word and run > REPEATS:
            return True
    return False
