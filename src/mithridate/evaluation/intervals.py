"""Shares with confidence intervals, and the paired test between two variants."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple, Self

from mithridate.errors import UsageError


class Score(NamedTuple):
    """A share with its confidence interval; all three numbers are fractions between 0 and 1.

    Attributes:
        value: Observed share.
        low: Lower end of the interval.
        high: Upper end of the interval.
        n: Answers that were counted.
    """

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, successes: int, n: int, confidence: float = 0.95) -> Self:
        """Return the share of `successes` among `n` with its Wilson interval.

        Raises:
            UsageError: If `n` is zero, `successes` is not within 0..n, or `confidence` not within 0..1.
        """
        if n < 1 or not 0 <= successes <= n:
            raise UsageError(f"a share needs 0 <= successes <= n and n >= 1, not {successes} of {n}")
        value = successes / n
        low, high = _wilson(value, n, confidence)
        return cls(value, low, high, n)

    def as_dict(self) -> dict[str, float | int]:
        """Return the four numbers under their names, as results.json holds them."""
        return self._asdict()


class Paired(NamedTuple):
    """Outcome of `paired_test`.

    Attributes:
        difference: Share of the first minus share of the second, -1..1.
        p_value: Two-sided p-value of "both shares are equal".
        n: Pairs.
    """

    difference: float
    p_value: float
    n: int


def _wilson(value: float, n: float, confidence: float) -> tuple[float, float]:
    """Wilson's score interval (Wilson, JASA 1927): the p with (value − p)² = z²·p(1 − p)/n."""
    if not 0 < confidence < 1:
        raise UsageError(f"confidence must lie between 0 and 1, not {confidence}")
    # Not Wald's interval: harmful scores lie near 0, where it has no width at all.
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    center = (value + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (value * (1 - value) + z2 / (4 * n)) / n) / (1 + z2 / n)
    # At 0 and 1 the ends are exact; rounding would leave 1e-17 beyond them.
    low = 0.0 if value == 0 else max(0.0, center - half)
    high = 1.0 if value == 1 else min(1.0, center + half)
    return low, high


def _overdispersion(scores: Sequence[Score], mean: float) -> float:
    """Pearson's χ²/(k − 1) of the shares around their mean, at least 1 (McCullagh and Nelder, 1989)."""
    # At 0 and 1 all runs agree, and the variance to divide by is 0.
    if len(scores) < 2 or mean in (0.0, 1.0):
        return 1.0
    chi2 = sum(s.n * (s.value - mean) ** 2 for s in scores) / (mean * (1 - mean))
    # Runs that agree better than chance do not make the interval narrower.
    return max(1.0, chi2 / (len(scores) - 1))


def pooled(scores: Sequence[Score], confidence: float = 0.95) -> Score:
    """Return one score from several runs, such as seeds.

    The value is the share over all answers. Where runs differ by more than chance, the interval is widened by
    their overdispersion; prompts that the runs share still make it optimistic, as they are counted as if
    independent.

    Raises:
        UsageError: If there is no score.
    """
    if not scores:
        raise UsageError("no scores to pool: give at least one")
    n = sum(s.n for s in scores)
    # A score holds no count; its share times n is one but for rounding.
    value = sum(round(s.value * s.n) for s in scores) / n
    low, high = _wilson(value, n / _overdispersion(scores, value), confidence)
    return Score(value, low, high, n)


def paired_test(a: Sequence[bool], b: Sequence[bool]) -> Paired:
    """Run the exact McNemar test on two variants' outcomes for the same prompts (McNemar, 1947).

    Under "equal shares" each discordant pair falls either way with probability 1/2, so the p-value is that of
    a two-sided binomial test on them; without discordant pairs it is 1.

    Args:
        a: Outcome of the first variant per prompt.
        b: Outcome of the second variant, in the same order.

    Raises:
        UsageError: If the lengths differ or are zero.
    """
    if len(a) != len(b) or not a:
        raise UsageError(f"a paired test needs the same prompts in both, at least one, not {len(a)} and {len(b)}")
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    return Paired((only_a - only_b) / len(a), _two_sided_half(only_a, only_b), len(a))


def _two_sided_half(k: int, other: int) -> float:
    """Two-sided p-value of `k` against `other` under a fair coin: 2·P(X <= min), at most 1."""
    # In whole numbers: 2ⁿ leaves the range of floats at n = 1024 pairs.
    n, term, tail = k + other, 1, 0
    for i in range(min(k, other) + 1):
        tail += term
        term = term * (n - i) // (i + 1)
    return float(min(1.0, (2 * tail) / (1 << n)))
