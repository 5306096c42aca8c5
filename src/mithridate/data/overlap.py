"""Prompts that occur in two sets of rows, such as an attack and the evaluation that should measure it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations

from datasets import Dataset

from mithridate.data.messages import Message
from mithridate.errors import DataError, UsageError


def normalized(text: str) -> str:
    """Return a text casefolded and with its whitespace collapsed, the form in which prompts are compared."""
    return " ".join(text.casefold().split())


def last_user_turn(prompt: Sequence[Message]) -> str:
    """Return the text of the last user turn; empty where there is none."""
    return next((turn["content"] for turn in reversed(prompt) if turn["role"] == "user"), "")


def check_disjoint(sets: Mapping[str, Dataset | Sequence[str]], pairs: Iterable[tuple[str, str]] | None = None) -> None:
    """Check that no prompt occurs in two sets of rows.

    Args:
        sets: Rows, or prompts as strings, under the name by which messages call them.
        pairs: Names of the sets that must share nothing; by default every two sets.

    Raises:
        DataError: Sets share prompts. Names one row of each by origin and counts the shared prompts.
        UsageError: A pair names a set that is not there.
    """
    # A list, as a caller's generator could be walked only once.
    checked = list(combinations(sets, 2) if pairs is None else pairs)
    for name in (name for pair in checked for name in pair):
        if name not in sets:
            raise UsageError(f"There is no set of rows named {name!r}; there are {', '.join(sets)}.")
    places = {name: _places(name, sets[name]) for name in {name for pair in checked for name in pair}}
    overlaps = [text for one, other in checked if (text := _overlap(one, other, places))]
    if overlaps:
        raise DataError(f"{' '.join(overlaps)} Remove the shared rows from one of the two.")


def _overlap(one: str, other: str, places: Mapping[str, dict[str, str]]) -> str:
    shared = [prompt for prompt in places[one] if prompt in places[other]]
    if not shared:
        return ""
    count = f"{len(shared)} prompt{'s' * (len(shared) > 1)} of {one!r} also in {other!r}"
    return f"{count}: for example {places[one][shared[0]]} equals {places[other][shared[0]]}."


def _places(name: str, rows: Dataset | Sequence[str]) -> dict[str, str]:
    """Return each normalized prompt of a set and where it first stands."""
    first: dict[str, str] = {}
    for prompt, origin in _prompts(name, rows):
        first.setdefault(normalized(prompt), origin)
    return first


def _prompts(name: str, rows: Dataset | Sequence[str]) -> Iterator[tuple[str, str]]:
    if isinstance(rows, Dataset):
        for prompt, origin in zip(rows["prompt"], rows["origin"], strict=True):
            yield last_user_turn(prompt), origin
    else:
        for i, prompt in enumerate(rows, 1):
            yield prompt, f"prompt {i} of {name}"
