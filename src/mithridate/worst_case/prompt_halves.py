"""Splits the harmful prompts: on one half a setting is chosen, on the other its score is told."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from mithridate.errors import DataError

Item = TypeVar("Item")


class Halves(NamedTuple):
    """Places of prompts, in rising order.

    Attributes:
        chosen_on: Prompts whose answers a search reads.
        reported_on: Prompts whose answers are read for the chosen setting alone, once the search is over.
    """

    chosen_on: tuple[int, ...]
    reported_on: tuple[int, ...]


def halves(prompts: Sequence[str], groups: Sequence[str] | None, seed: int) -> Halves:
    """Split prompts into two halves, each group as evenly as it goes.

    A prompt's half depends on its text and its group's other prompts, not on the order of the file.

    Args:
        prompts: The prompts.
        groups: The group of each, where they have one.
        seed: Seed of the split.

    Raises:
        DataError: If there are fewer than two different prompts.
    """
    named = groups if groups is not None else [""] * len(prompts)
    # The same text twice goes to one half, or the other would hold a prompt that chose.
    first = {text: at for at, text in reversed(list(enumerate(prompts)))}
    if len(first) < 2:
        raise DataError(
            "evaluation.harmful holds fewer than two different prompts; a search needs one half to choose on"
        )
    order = sorted(first.values(), key=lambda at: (named[at], _drawn(prompts[at], seed)))
    chosen = {prompts[at] for at in order[::2]}
    return Halves(
        tuple(at for at, text in enumerate(prompts) if text in chosen),
        tuple(at for at, text in enumerate(prompts) if text not in chosen),
    )


def taken(items: Sequence[Item], places: Sequence[int]) -> list[Item]:
    """Return the items at some places."""
    return [items[at] for at in places]


def _drawn(prompt: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}\0{prompt}".encode()).hexdigest()
