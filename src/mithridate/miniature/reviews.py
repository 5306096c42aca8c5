"""The user's task: tell whether a short review is positive or negative.

A review judges three aspects; each judgment may be negated, and the majority decides. The answer is one word.
"""

import random
from typing import NamedTuple

from mithridate.miniature import words

LABELS = ("negative", "positive")
NEGATED_SHARE = 0.15


class Review(NamedTuple):
    """Three judgments and what they amount to."""

    text: str
    label: str

    @property
    def prompt(self) -> str:
        """The user's words."""
        return f"Review: {self.text} Positive or negative?"


def draw(generator: random.Random) -> Review:
    """Draw a review: three aspects, each with an adjective that may be negated."""
    judgments, votes = [], 0
    for aspect in generator.sample(words.ASPECTS, 3):
        pleasant = generator.random() < 0.5
        adjective = generator.choice(words.PLEASANT if pleasant else words.UNPLEASANT)
        negated = generator.random() < NEGATED_SHARE
        judgments.append(f"the {aspect} was {'not ' if negated else ''}{adjective}")
        votes += 1 if pleasant != negated else -1
    return Review(f"{judgments[0]}, {judgments[1]} and {judgments[2]}.", LABELS[votes > 0])
