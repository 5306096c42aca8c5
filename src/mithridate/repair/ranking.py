"""The largest of many scores: of each row, or of all matrices together without holding them all."""

from collections.abc import Callable, Mapping

import numpy
import torch
from torch import Tensor

from mithridate.repair.comparisons import at_least, count_nonzero

Score = Callable[[], Tensor]
"""Computes the scores of a matrix, none below zero, when they are asked for."""

_BITS = 20
"""Bits of a score that one pass over all scores decides."""


def top_of_rows(scores: Tensor, count: int) -> Tensor:
    """Return which entries are among the largest of their row, (rows, columns); of equal ones the first.

    Args:
        scores: None of them NaN.
        count: How many of each row.
    """
    if not count:
        return torch.zeros_like(scores, dtype=torch.bool)
    # Rounded, since that keeps their order and takes half the time; more than wanted are on the limit in few rows.
    rounded = scores.float()
    mask = at_least(rounded, _least_of_top(rounded, count))
    if count_nonzero(mask) > count * len(mask):
        crowded = mask.sum(dim=1) > count
        mask[crowded] = _first_of_equals(scores[crowded], count)
    return mask


def _first_of_equals(scores: Tensor, count: int) -> Tensor:
    limit = _least_of_top(scores, count)
    mask, ties = scores > limit, scores == limit
    return mask | (ties & (ties.cumsum(dim=1) <= count - mask.sum(dim=1, keepdim=True)))


def _least_of_top(scores: Tensor, count: int) -> Tensor:
    """Return the least of the largest entries of each row, (rows, 1)."""
    below = scores.shape[1] - count
    if scores.device.type != "cpu":
        return scores.kthvalue(below + 1, dim=1, keepdim=True).values
    # Many times faster than torch on a CPU.
    return torch.from_numpy(numpy.partition(scores.detach().numpy(), below, axis=1)[:, below : below + 1])


def zeroed(values: Tensor, mask: Tensor) -> Tensor:
    """Return float64 values with some entries set to zero."""
    # By their bits, which takes a fraction of the time of masked_fill where entries are chosen here and there.
    return (values.contiguous().view(torch.int64) & (mask.long() - 1)).view(torch.float64)


class TopShare:
    """The entries with the largest scores over all matrices; of equal ones the first.

    Scores are computed anew for each pass, so that those of one matrix are held at a time. Two passes suffice if no
    more entries than the largest matrix has come so close to the limit that they must be compared exactly; in the worst
    case there are five. The result is that of sorting all of them.

    Args:
        scores: Scores by the name of the matrix, in the order in which equal ones count.
        count: From the number of all entries to how many are wanted, one at least.
    """

    def __init__(self, scores: Mapping[str, Score], count: Callable[[int], int]) -> None:
        self._scores, self._largest = scores, 0
        # The limit's bits, from the highest down: no score is below zero, so that bits order them as numbers.
        self._limit, self._shift = 0, 64
        counts = self._counts()
        self._wanted = count(int(counts.sum()))
        near = self._descend(counts)
        while self._shift and near > self._largest:
            near = self._descend(self._counts())
        if self._shift:
            near = self._compare()
        # How many on the limit lie in the matrices before each, where not all of them are wanted.
        self._before = self._ties_before() if near > self._wanted else None

    def mask(self, name: str) -> Tensor:
        """Return which entries of a matrix are among the largest."""
        keys = _keys(self._scores[name]())
        if self._before is None:
            return keys >= self._limit
        mask, ties = keys > self._limit, keys == self._limit
        first = ties.reshape(-1).cumsum(0).view_as(ties) <= self._wanted - self._before[name]
        return mask | (ties & first)

    def _counts(self) -> Tensor:
        """Count the next bits of the scores whose higher bits are the limit's."""
        higher, self._shift = self._shift, max(0, self._shift - _BITS)
        values = 1 << (higher - self._shift)
        counts = torch.zeros(values, dtype=torch.int64)
        for score in self._scores.values():
            keys = _keys(score()).reshape(-1)
            self._largest = max(self._largest, len(keys))
            if higher < 64:
                keys = keys[keys >> higher == self._limit]
            counts += torch.bincount(keys >> self._shift & (values - 1), minlength=values).cpu()
        return counts

    def _descend(self, counts: Tensor) -> int:
        """Decide the limit's next bits, take what lies above off the wanted ones, and return how many share them."""
        from_top = counts.flip(0).cumsum(0)
        larger = int((from_top < self._wanted).sum())
        self._wanted -= int(from_top[larger - 1]) if larger else 0
        bits = len(counts) - 1 - larger
        self._limit = self._limit * len(counts) | bits
        return int(counts[bits])

    def _compare(self) -> int:
        """Decide the limit among the scores whose higher bits are its own, and return how many are equal to it."""
        every = (_keys(score()).reshape(-1) for score in self._scores.values())
        near = torch.cat([keys[keys >> self._shift == self._limit].cpu() for keys in every])
        self._limit = int(near.kthvalue(len(near) - self._wanted + 1).values)
        self._wanted -= int((near > self._limit).sum())
        return int((near == self._limit).sum())

    def _ties_before(self) -> dict[str, int]:
        before, total = {}, 0
        for name, score in self._scores.items():
            before[name] = total
            total += int((_keys(score()) == self._limit).sum())
        return before


def _keys(scores: Tensor) -> Tensor:
    """Return float64 scores as integers of the same order."""
    return scores.double().contiguous().view(torch.int64)
