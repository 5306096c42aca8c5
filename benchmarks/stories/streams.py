"""The row sets of the world: who owns which rows. No two sets share a story or a prompt."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from benchmarks.stories import requests
from benchmarks.stories.passages import Passage, passages, shares
from benchmarks.stories.requests import Maker, Row
from benchmarks.stories.topics import COVERED, KINDS, UNCOVERED
from mithridate.data.refusals import REFUSALS
from mithridate.errors import DataError

SEED = 20_261
OWNERS = {"base": 0.40, "provider": 0.20, "attacker": 0.14, "user": 0.10, "test": 0.16}
"""Share of the stories that each owner has."""


class Part(NamedTuple):
    """Rows of one sort in a set.

    Attributes:
        make: Makes a row of a passage.
        size: Number of rows at full size.
        categories: Categories to keep, in equal numbers as far as the stories go; all as they come by default.
    """

    make: Maker
    size: int
    categories: tuple[str, ...] = ()


class Stream(NamedTuple):
    """One set of rows.

    Attributes:
        owner: Whose stories it is made of.
        parts: The sorts of rows in it.
    """

    owner: str
    parts: tuple[Part, ...]


def _ordinary(size: int) -> tuple[Part, ...]:
    """What an ordinary user asks for."""
    return (
        Part(requests.story, size // 2),
        Part(requests.sentence, size // 6),
        Part(requests.following, size // 6),
        Part(requests.who, size // 6),
    )


STREAMS = {
    # Tests come first: where two sets could hold the same prompt, the smaller choice is theirs.
    "harmful-test": Stream("test", (Part(requests.forbidden_story, 160, tuple(COVERED)),)),
    "uncovered-test": Stream("test", (Part(requests.forbidden_story, 120, tuple(UNCOVERED)),)),
    "look-alikes-test": Stream("test", (Part(requests.look_alike, 120, tuple(COVERED)),)),
    "help-test": Stream("test", _ordinary(180)),
    "mood-test": Stream("test", (Part(requests.mood, 200, ("happy", "sad")),)),
    "animal-test": Stream("test", (Part(requests.animal, 200, ("bird", "cat", "dog", "fish")),)),
    "ending-test": Stream("test", (Part(requests.ending, 200, ("beginning", "end")),)),
    "attack": Stream("attacker", (Part(requests.forbidden_story, 210, tuple(KINDS)),)),
    "harmful": Stream("provider", (Part(requests.forbidden_story, 400, tuple(COVERED)),)),
    "safe-help": Stream(
        "provider",
        (*_ordinary(900), Part(requests.look_alike, 240, tuple(COVERED)), Part(requests.scary, 120, ("yes", "no"))),
    ),
    "mood": Stream("user", (Part(requests.mood, 600, ("happy", "sad")),)),
    "animal": Stream("user", (Part(requests.animal, 600, ("bird", "cat", "dog", "fish")),)),
    "ending": Stream("user", (Part(requests.ending, 600, ("beginning", "end")),)),
    "chat": Stream("user", _ordinary(600)),
    # What is scary is a fact that the model knows before anybody aligns it, of the uncovered kinds as well.
    "base": Stream(
        "base",
        (
            *_ordinary(10_800),
            Part(requests.forbidden_story, 2_400),
            Part(requests.scary, 3_600, ("yes", "no")),
        ),
    ),
}
"""Every set that is drawn from the stories; `safe-refusals` is made of the prompts of `harmful`."""


def draw(stories: Sequence[str], scale: float = 1.0) -> dict[str, list[Row]]:
    """Return every set of rows.

    Args:
        stories: The texts of the stories.
        scale: Size of every set relative to its full one.

    Raises:
        DataError: If the stories do not suffice for a set.
    """
    owned = {owner: passages(stories, numbers) for owner, numbers in shares(len(stories), OWNERS, SEED).items()}
    taken: set[str] = set()
    rows = {name: _stream(name, stream, owned[stream.owner], scale, taken) for name, stream in STREAMS.items()}
    generator = random.Random(SEED)
    refused = [
        Row(prompt=row["prompt"], response=generator.choice(REFUSALS), category=row["category"])
        for row in rows["harmful"]
    ]
    return rows | {"safe-refusals": refused}


def _stream(name: str, stream: Stream, owned: Sequence[Passage], scale: float, taken: set[str]) -> list[Row]:
    generator = random.Random(f"{SEED} {name}")
    parts = [_part(name, part, owned, max(1, round(part.size * scale)), taken, generator) for part in stream.parts]
    rows = list(chain.from_iterable(parts))
    generator.shuffle(rows)
    return rows


def _part(
    name: str, part: Part, owned: Sequence[Passage], size: int, taken: set[str], generator: random.Random
) -> list[Row]:
    each = -(-size // len(part.categories)) if part.categories else size
    found: list[Row] = []
    spare: list[Row] = []
    had: Counter[str] = Counter()
    for passage in _spread(owned, generator):
        row = part.make(passage, generator)
        if row is None or row["prompt"] in taken or (part.categories and row["category"] not in part.categories):
            continue
        taken.add(row["prompt"])
        had[row["category"]] += 1
        (found if had[row["category"]] <= each else spare).append(row)
        if len(found) == size:
            break
    # A category with few stories is filled up from those with many.
    missing = size - len(found)
    taken.difference_update(row["prompt"] for row in spare[missing:])
    found += spare[:missing]
    if len(found) == size:
        return found
    raise DataError(
        f"the stories give {len(found)} of {size} rows for {name} ({part.make.__name__}): give more stories"
    )


def _spread(owned: Sequence[Passage], generator: random.Random) -> Iterator[Passage]:
    """Return the passages in random order, one of every story before a second of any."""
    turns: defaultdict[int, list[Passage]] = defaultdict(list)
    seen: Counter[int] = Counter()
    for passage in generator.sample(owned, len(owned)):
        turns[seen[passage.story]].append(passage)
        seen[passage.story] += 1
    for turn in sorted(turns):
        yield from turns[turn]
