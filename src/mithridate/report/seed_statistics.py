"""Intervals whose unit is the seed: Student's t, and the bootstrap over seeds.

Written out here so that the package needs no SciPy; the tests compare with it.
"""

import math
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy

from mithridate.errors import UsageError

RESAMPLES = 4000
"""Draws of the bootstrap; its Monte Carlo error is then far below the spread between seeds."""

Curve = Sequence[float]
"""One number per axis value."""


class SeedInterval(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


def t_interval(values: Sequence[float], confidence: float = 0.95) -> SeedInterval:
    """Return the mean over seeds ± t(n − 1)·s/√n (Student, 1908).

    Raises:
        UsageError: If there are fewer than two values.
    """
    n = len(values)
    if n < 2:
        raise UsageError(f"a t interval needs at least two seeds, not {n}")
    # fsum, so that the figure does not depend on the order of the seeds.
    mean = math.fsum(values) / n
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = t_quantile((1 + confidence) / 2, n - 1) * deviation / math.sqrt(n)
    return SeedInterval(mean, mean - half, mean + half)


def t_quantile(probability: float, freedom: int) -> float:
    """The t with P(T ≤ t) = probability, for probability above one half, by bisection of its angle atan(t/√ν)."""
    low, high = 0.0, math.pi / 2
    # π/2 halved 60 times is below what a double can tell apart.
    for _ in range(60):
        middle = (low + high) / 2
        if (1 + _central(middle, freedom)) / 2 < probability:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _central(angle: float, freedom: int) -> float:
    """P(|T| ≤ √ν·tan angle): a finite series (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    odd = freedom % 2
    term, total = (math.cos(angle), 0.0) if odd else (1.0, 0.0)
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= k / (k + 1) * math.cos(angle) ** 2
    series = math.sin(angle) * total
    return 2 / math.pi * (angle + series) if odd else series


def bootstrap(
    curves: Sequence[Sequence[Curve]], statistic: Callable[[list[list[float]]], float], confidence: float = 0.95
) -> SeedInterval:
    """Return a statistic of mean curves with the percentile interval over resampled seeds (Efron, 1979).

    The same seeds are drawn for every group, so that differences between groups stay paired. The draws are the same
    every time.

    Args:
        curves: Per group, per seed, one curve; every group has the same seeds in the same order.
        statistic: Maps the mean curves, one per group, to a number.
        confidence: Confidence level of the interval.

    Raises:
        UsageError: If there are fewer than two seeds.
    """
    n = len(curves[0])
    if n < 2:
        raise UsageError(f"a bootstrap over seeds needs at least two, not {n}")
    # A fixed seed, as the same results must give the same report, byte for byte.
    source = random.Random(0)
    draws = sorted(statistic(_means(curves, source.choices(range(n), k=n))) for _ in range(RESAMPLES))
    tail = (1 - confidence) / 2
    # Rounded outward, so that the interval is never narrower than its confidence.
    low, high = draws[math.floor(tail * (RESAMPLES - 1))], draws[math.ceil((1 - tail) * (RESAMPLES - 1))]
    return SeedInterval(statistic(_means(curves, range(n))), low, high)


def paired_bootstrap(differences: Sequence[Sequence[int]], confidence: float = 0.95) -> SeedInterval:
    """Return a mean difference with its percentile interval over resampled seeds and resampled prompts.

    All seeds answer the same prompts, so that a drawn prompt is drawn for every seed (the pigeonhole bootstrap, Owen,
    2007). The interval errs on the wide side. With a single seed only prompts are drawn. The draws are the same every
    time.

    Args:
        differences: Per seed and prompt, one outcome minus the other: -1, 0 or 1.
        confidence: Confidence level of the interval.

    Raises:
        UsageError: If there is no seed or no prompt, or the seeds have unequal numbers of prompts.
    """
    if not differences or len({len(seed) for seed in differences}) != 1 or not differences[0]:
        raise UsageError("a paired bootstrap needs the same prompts, at least one, of every seed")
    table = numpy.asarray(differences, dtype=float)
    seeds, prompts = table.shape
    source = numpy.random.default_rng(0)
    # How often each seed and each prompt is drawn; a mean over drawn cells is then two products.
    of_seeds = source.multinomial(seeds, [1 / seeds] * seeds, size=RESAMPLES)
    of_prompts = source.multinomial(prompts, [1 / prompts] * prompts, size=RESAMPLES)
    draws = numpy.sort(((of_seeds @ table) * of_prompts).sum(axis=1) / table.size)
    tail = (1 - confidence) / 2
    low, high = draws[math.floor(tail * (RESAMPLES - 1))], draws[math.ceil((1 - tail) * (RESAMPLES - 1))]
    return SeedInterval(float(table.mean()), float(low), float(high))


def _means(curves: Sequence[Sequence[Curve]], chosen: Sequence[int]) -> list[list[float]]:
    """Mean curve of each group over the chosen seeds."""
    return [
        [sum(group[seed][place] for seed in chosen) / len(chosen) for place in range(len(group[0]))] for group in curves
    ]


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the least-squares slope of y over x."""
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    above = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / math.fsum((a - mean_x) ** 2 for a in x)
