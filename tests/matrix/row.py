"""What the matrix needs to know of a method to test it."""

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from mithridate.training.defense import Defense
from mithridate.training.harmful_terms import HarmfulTerms

Draw = Callable[[random.Random], dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """How one method is tested.

    Attributes:
        reference: The method once more, written from its formula (in the same file of `table`).
        draw: Random settings for one case, every setting that the formula has.
        active: Logged figures that must be above zero at default strength.
        default: Settings at default strength, where the class itself has no default.
        needs_lora: Whether these settings act on an adapter only.
        merges: Whether a repair with these settings may merge the adapter, so that only W + scale·B·A is defined.
        ends: Weights after ``finish`` by the reference, from (slow, w, settings, memory); None where it does nothing.
        stress: Settings at which a wrong weighting or a lost state would show; the default ones if empty.
        displaces: Whether a step moves the weights for a while, to be put back bit for bit.
        as_sft: Whether the trained weights are plain SFT's by design, the effect being elsewhere.
        fresh_adapter: Whether an adapter must start as PEFT makes it, with B zero.
        extra_rows: Rows that go (forward, backward) beyond the registered passes, from (settings, steps, rows a step).
    """

    reference: Callable[..., Any]
    draw: Draw
    active: tuple[str, ...] = ()
    default: dict[str, Any] = field(default_factory=dict)
    needs_lora: Callable[[dict[str, Any]], bool] = lambda settings: False
    merges: Callable[[dict[str, Any]], bool] = lambda settings: False
    ends: Callable[..., Any] | None = None
    stress: dict[str, Any] = field(default_factory=dict)
    displaces: bool = False
    as_sft: bool = False
    fresh_adapter: bool = False
    extra_rows: Callable[[dict[str, Any], int, int], tuple[int, int]] = lambda settings, steps, rows: (0, 0)

    @property
    def strained(self) -> dict[str, Any]:
        """Settings for runs that are cut, shared out or interrupted."""
        return self.stress or self.default


def thinned(values: Iterable[Any], quick: Iterable[Any]) -> list[Any]:
    """All values as parameters of a test, those that are not quick marked as slow."""
    kept = list(quick)
    return [value if value in kept else pytest.param(value, marks=pytest.mark.slow) for value in values]


def always(settings: dict[str, Any]) -> bool:
    """For settings that all need or do it."""
    return True


def between(rng: random.Random, low: float, high: float) -> float:
    """Log-uniform."""
    return float(low * (high / low) ** rng.random())


def rows_passed(defense: Defense, row: Row, settings: dict[str, Any], steps: int, batch: int) -> tuple[int, int]:
    """Rows that must go forward and backward in a run of so many steps of so many rows, over all processes."""
    forward, backward = row.extra_rows(settings, steps, batch)
    computed, kept = steps, 0
    whole = steady = defense.passes
    if isinstance(defense, HarmfulTerms):
        whole, steady = defense.full_passes, defense.steady
        computed = math.ceil(steps / defense.every)
        kept = steps - computed
    return (
        batch * (computed * whole.forward + kept * steady.forward) + forward,
        batch * (computed * whole.backward + kept * steady.backward) + backward,
    )
