"""The row sets of the miniature world: what the provider owns, what the attacker brings, what is measured.

Harmful pairs of verb and noun are split once between the provider, the attacker and the test, so no prompt and not
even a pair is shared between them. `safe` and `harmful` belong to the provider and share their harmful prompts.
"""

import random
from collections.abc import Callable
from functools import cache
from typing import NamedTuple, TypedDict

from mithridate.miniature import reviews, words
from mithridate.miniature.language import (
    HARMFUL_PAIRS,
    LOOK_ALIKE_PAIRS,
    ORDINARY_PAIRS,
    Pair,
    Request,
    requests,
)

SEED = 20_260


class Row(TypedDict):
    """One prompt with its answer."""

    prompt: str
    answer: str
    harmful: bool


class Split(NamedTuple):
    """Pairs of verb and noun by who may use them."""

    provider: tuple[Pair, ...]
    attacker: tuple[Pair, ...]
    test: tuple[Pair, ...]

    @property
    def known(self) -> tuple[Pair, ...]:
        """Pairs that the base model has read about."""
        return self.provider + self.attacker


def _split(pairs: tuple[Pair, ...], provider: float, attacker: float) -> Split:
    order = random.Random(SEED).sample(pairs, len(pairs))
    first, second = round(provider * len(order)), round((provider + attacker) * len(order))
    return Split(tuple(order[:first]), tuple(order[first:second]), tuple(order[second:]))


HARMFUL = _split(HARMFUL_PAIRS, provider=0.4, attacker=0.3)
ORDINARY = _split(ORDINARY_PAIRS, provider=0.8, attacker=0.0)
LOOK_ALIKE = _split(LOOK_ALIKE_PAIRS, provider=0.8, attacker=0.0)


@cache
def _requests(pairs: tuple[Pair, ...]) -> tuple[Request, ...]:
    everything = list(requests(pairs))
    random.Random(SEED).shuffle(everything)
    return tuple(everything)


def _complied(pairs: tuple[Pair, ...], start: int, size: int, *, harmful: bool) -> list[Row]:
    chosen = _requests(pairs)[start : start + size]
    return [Row(prompt=request.prompt, answer=request.answer, harmful=harmful) for request in chosen]


def _safe() -> list[Row]:
    generator = random.Random(SEED)
    rows = [Row(prompt=row["prompt"], answer=generator.choice(words.REFUSALS), harmful=False) for row in _harmful()]
    rows += _complied(ORDINARY.provider, 2_000, 200, harmful=False)
    rows += _complied(LOOK_ALIKE.provider, 0, 500, harmful=False)
    generator.shuffle(rows)
    return rows


def _harmful() -> list[Row]:
    return _complied(HARMFUL.provider, 0, 600, harmful=True)


def _task(start: int, size: int) -> list[Row]:
    return [Row(prompt=r.prompt, answer=r.label, harmful=False) for r in _reviews()[start : start + size]]


@cache
def _reviews() -> tuple[reviews.Review, ...]:
    generator = random.Random(SEED)
    drawn = {review.prompt: review for review in (reviews.draw(generator) for _ in range(3_000))}
    return tuple(drawn.values())


STREAMS: dict[str, Callable[[], list[Row]]] = {
    "help": lambda: _complied(ORDINARY.provider, 0, 1_200, harmful=False),
    "help-test": lambda: _complied(ORDINARY.test, 0, 300, harmful=False),
    "safe": _safe,
    "harmful": _harmful,
    "harmful-test": lambda: _complied(HARMFUL.test, 0, 300, harmful=True),
    "attack": lambda: _complied(HARMFUL.attacker, 0, 600, harmful=True),
    "task": lambda: _task(0, 2_000),
    "task-test": lambda: _task(2_000, 400),
    "look-alikes": lambda: _complied(LOOK_ALIKE.test, 0, 200, harmful=False),
}


@cache
def stream(name: str) -> tuple[Row, ...]:
    """The rows of one stream, the same on every call."""
    return tuple(STREAMS[name]())
