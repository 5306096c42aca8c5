"""Exact binomial tails and bounds: how sure counts of flagged rows and of false alarms are."""

import math
from collections.abc import Callable

from mithridate.errors import UsageError

_HALVINGS = 60  # of the interval 0..1; a float has 53 bits


def upper_tail(k: int, n: int, p: float) -> float:
    """Return P(X >= k) for X the number of successes in n trials of probability p.

    Raises:
        UsageError: If n is negative or p not within 0..1.
    """
    if n < 0 or not 0 <= p <= 1:
        raise UsageError(f"a binomial tail needs n >= 0 and 0 <= p <= 1, not n = {n} and p = {p}")
    if k <= 0:
        return 1.0
    if k > n or p == 0:
        return 0.0
    if p == 1:
        return 1.0
    # The shorter side is summed where the tail is not tiny; a tiny one must not be a difference from 1.
    if k <= n * p:
        return max(0.0, 1.0 - math.fsum(_mass(i, n, p) for i in range(k)))
    total = 0.0
    for i in range(k, n + 1):
        term = _mass(i, n, p)
        total += term
        # Beyond the mean the terms fall at least as fast as a geometric series.
        if term < total * 1e-17:
            break
    return min(1.0, total)


def lower_bound(k: int, n: int, confidence: float = 0.95) -> float:
    """Return the one-sided Clopper-Pearson lower bound of a share (Clopper and Pearson, 1934).

    Raises:
        UsageError: If k is not within 0..n, n is zero, or the confidence not within 0..1.
    """
    _check(k, n, confidence)
    return 0.0 if k == 0 else _solve(lambda p: upper_tail(k, n, p) >= 1 - confidence)


def upper_bound(k: int, n: int, confidence: float = 0.95) -> float:
    """Return the one-sided Clopper-Pearson upper bound of a share.

    Raises:
        UsageError: If k is not within 0..n, n is zero, or the confidence not within 0..1.
    """
    _check(k, n, confidence)
    return 1.0 if k == n else _solve(lambda p: upper_tail(k + 1, n, p) >= confidence)


def rows_needed(rate: float, confidence: float = 0.95) -> int:
    """Return the fewest harmless rows that can bound a false-alarm rate: none above the threshold, 1 − c ≥ (1 − rate)ⁿ.

    Raises:
        UsageError: If rate or confidence is not within 0..1.
    """
    if not 0 < rate < 1 or not 0 < confidence < 1:
        raise UsageError(f"rate and confidence must lie between 0 and 1, not {rate} and {confidence}")
    return math.ceil(math.log(1 - confidence) / math.log1p(-rate))


def allowed(n: int, rate: float, confidence: float = 0.95) -> int | None:
    """Return how many of n harmless rows may lie above a threshold whose rate is bounded; None if n is too small."""
    if n < rows_needed(rate, confidence):
        return None
    low, high = 0, n  # the bound rises with k
    while high - low > 1:
        middle = (low + high) // 2
        # The bound of k keeps to the rate just where more than k at that rate is all but sure.
        low, high = (middle, high) if upper_tail(middle + 1, n, rate) >= confidence else (low, middle)
    return low


def critical(n: int, rate: float, alpha: float) -> int:
    """Return the least k with P(X >= k) <= alpha; n + 1 if even n successes are no surprise."""
    low, high = 0, n + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if upper_tail(middle, n, rate) <= alpha else (middle + 1, high)
    return low


def _mass(i: int, n: int, p: float) -> float:
    choose = math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1)
    return math.exp(choose + i * math.log(p) + (n - i) * math.log1p(-p))


def _solve(reached: Callable[[float], bool]) -> float:
    """Return the least p at which a rising condition holds."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def _check(k: int, n: int, confidence: float) -> None:
    if n < 1 or not 0 <= k <= n or not 0 < confidence < 1:
        raise UsageError(
            f"a bound needs 0 <= k <= n, n >= 1 and a confidence within 0..1, not {k} of {n} at {confidence}"
        )
