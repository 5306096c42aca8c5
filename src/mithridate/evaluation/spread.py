"""Answers spread over processes: each does some of the batches, and all of them know every answer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from torch import distributed

Batch = TypeVar("Batch")
Found = TypeVar("Found")

# Not merely whether there are several processes: a script under a launcher may ask its model in one of them only.
_SPREAD: ContextVar[bool] = ContextVar("spread", default=False)


@contextmanager
def spread_over_processes() -> Iterator[None]:
    """Inside the block batches of prompts are shared out over the processes; all of them must ask the same."""
    before = _SPREAD.set(distributed.is_initialized())
    try:
        yield
    finally:
        _SPREAD.reset(before)


def own_batches(batches: Sequence[Batch]) -> Sequence[Batch]:
    """Return the batches of this process; all of them outside `spread_over_processes`.

    Whole batches, as one process makes them: what is padded with what decides the last bits of an answer's scores.
    """
    if not _SPREAD.get():
        return batches
    # Batches are sorted by length, so that every n-th one makes shares of equal work.
    return batches[distributed.get_rank() :: distributed.get_world_size()]


def put_together(found: dict[int, Found]) -> dict[int, Found]:
    """Return what all processes have found, by place."""
    if not _SPREAD.get():
        return found
    parts: list[dict[int, Found]] = [{}] * distributed.get_world_size()
    distributed.all_gather_object(parts, found)
    return {place: one for part in parts for place, one in part.items()}
