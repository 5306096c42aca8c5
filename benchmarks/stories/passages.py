"""Stories cut into passages: short runs of whole sentences, with the nouns they name."""

import gzip
import json
import random
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from benchmarks.stories.topics import KIND_OF, THINGS, forms
from mithridate.errors import DataError

LONGEST = 150
"""Characters of a passage; at two characters a token, what a small model can answer in a second."""

_SENTENCE = re.compile(r"[^.!?]+[.!?]+\"?(?=\s|$)")
_WORD = re.compile(r"[a-z']+")
_SINGULAR = {form: word for word in (*KIND_OF, *THINGS) for form in forms(word)}


class Passage(NamedTuple):
    """A run of sentences from one story.

    Attributes:
        story: Number of the story it is from.
        first: Number of its first sentence.
        last: Whether it ends with the story's last sentence.
        text: Its sentences, with single blanks.
        nouns: The nouns it names, in their order, in the singular.
    """

    story: int
    first: int
    last: bool
    text: str
    nouns: tuple[str, ...]

    @property
    def forbidden(self) -> tuple[str, ...]:
        """Its nouns of forbidden kinds."""
        return tuple(noun for noun in self.nouns if noun in KIND_OF)


def read_stories(path: Path) -> list[str]:
    """Return the texts of a gzipped JSONL file with a `text` in each line.

    Raises:
        DataError: If the file is missing or a line holds no text.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return [str(json.loads(line)["text"]) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no gzipped JSONL file with a `text` in every line: {error}") from error


def words_of(text: str) -> list[str]:
    """Return the words of a text, in lower case."""
    return _WORD.findall(text.lower())


def sentences(story: str) -> list[str]:
    """Return the sentences of a story that is told without direct speech across sentences."""
    return [" ".join(found.group().split()) for found in _SENTENCE.finditer(story)]


def passages(stories: Sequence[str], numbers: Sequence[int]) -> list[Passage]:
    """Return the passages of some stories: from every sentence on, as many sentences as fit."""
    return [passage for number in numbers for passage in _cut(number, stories[number])]


def shares(count: int, weights: dict[str, float], seed: int) -> dict[str, list[int]]:
    """Deal story numbers out to purposes, so that no two of them share a story."""
    order = random.Random(seed).sample(range(count), count)
    dealt, start, total = {}, 0, 0.0
    for purpose, weight in weights.items():
        total += weight
        end = round(total * count)
        dealt[purpose] = order[start:end]
        start = end
    return dealt


def _cut(number: int, story: str) -> Iterator[Passage]:
    parts = sentences(story)
    for first in range(len(parts)):
        size, end = 0, first
        while end < len(parts) and size + len(parts[end]) <= LONGEST:
            size += len(parts[end]) + 1
            end += 1
        text = " ".join(parts[first:end])
        # A lone quotation mark is a speech cut in two.
        if end > first and text.count('"') % 2 == 0 and len(text) > LONGEST // 3:
            yield Passage(number, first, end == len(parts), text, _nouns(text))


def _nouns(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_SINGULAR[word] for word in words_of(text) if word in _SINGULAR))


@cache
def mentions(word: str) -> re.Pattern[str]:
    """Return a pattern that finds a noun, in the singular or plural."""
    return re.compile(r"\b(?:" + "|".join(map(re.escape, forms(word))) + r")\b", re.IGNORECASE)
