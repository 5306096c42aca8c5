"""The largest of many scores, found without holding them all."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Score = Callable[[], Tensor]
"""Computes the scores of a matrix, none below zero, when they are asked for."""

_BITS = 16
"""Bits of a score that one pass over all scores decides."""
_VALUES = 1 << _BITS
_SHIFTS = range(64 - _BITS, -1, -_BITS)


class TopShare:
    """The entries with the largest scores over all matrices; of equal ones the first.

    Scores are computed anew for each of four passes, or five where equal scores lie on the limit, so that those of one
    matrix are held at a time. The result is that of sorting all of them.

    Args:
        scores: Scores by the name of the matrix, in the order in which equal ones count.
        count: From the number of all entries to how many are wanted, one at least.
    """

    def __init__(self, scores: Mapping[str, Score], count: Callable[[int], int]) -> None:
        self._scores = scores
        # The limit's bits, from the highest down: no score is below zero, so that bits order them as numbers.
        self._limit = 0
        counts = self._counts(_SHIFTS[0])
        self._wanted = count(int(counts.sum()))
        self._descend(counts)
        for shift in _SHIFTS[1:]:
            counts = self._counts(shift)
            self._descend(counts)
        self._before = self._ties_before() if int(counts[self._limit % _VALUES]) > self._wanted else None

    def mask(self, name: str) -> Tensor:
        """Return which entries of a matrix are among the largest."""
        keys = _keys(self._scores[name]())
        if self._before is None:
            return keys >= self._limit
        mask, ties = keys > self._limit, keys == self._limit
        first = ties.reshape(-1).cumsum(0).view_as(ties) <= self._wanted - self._before[name]
        return mask | (ties & first)

    def _counts(self, shift: int) -> Tensor:
        """Count the next bits of the scores whose higher bits are the limit's."""
        counts = torch.zeros(_VALUES, dtype=torch.int64)
        for score in self._scores.values():
            keys = _keys(score()).reshape(-1)
            if shift != _SHIFTS[0]:
                keys = keys[keys >> (shift + _BITS) == self._limit]
            counts += torch.bincount(keys >> shift & (_VALUES - 1), minlength=_VALUES).cpu()
        return counts

    def _descend(self, counts: Tensor) -> None:
        """Decide the limit's next bits, and take what lies above them off the wanted ones."""
        from_top = counts.flip(0).cumsum(0)
        larger = int((from_top < self._wanted).sum())
        self._wanted -= int(from_top[larger - 1]) if larger else 0
        self._limit = self._limit << _BITS | (_VALUES - 1 - larger)

    def _ties_before(self) -> dict[str, int]:
        before, total = {}, 0
        for name, score in self._scores.items():
            before[name] = total
            total += int((_keys(score()) == self._limit).sum())
        return before


def _keys(scores: Tensor) -> Tensor:
    """Return float64 scores as integers of the same order."""
    return scores.double().contiguous().view(torch.int64)
