"""Growth exponents: how a figure grows with a size, as the least-squares slope of its logarithm."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy import stats


class Growth(NamedTuple):
    """y ∝ xᵏ.

    Attributes:
        exponent: k.
        low: Lower end of its 95 % interval.
        high: Upper end; both are those of k where the points lie on a line.
    """

    exponent: float
    low: float
    high: float

    def rounded(self) -> dict[str, float]:
        """The figures with three decimals."""
        return {name: round(value, 3) for name, value in self._asdict().items()}


def growth(sizes: Sequence[float], figures: Sequence[float]) -> Growth:
    """Fit ln y = k·ln x + c by least squares, with Student's interval of k.

    Args:
        sizes: x, two different ones at least.
        figures: y, one for each.
    """
    found = stats.linregress([math.log(x) for x in sizes], [math.log(y) for y in figures])
    free = len(sizes) - 2
    # Figures that are all alike leave nothing to estimate an error from, nor do two points.
    half = float(stats.t.ppf(0.975, free) * found.stderr) if free and len(set(figures)) > 1 else 0.0
    return Growth(float(found.slope), float(found.slope) - half, float(found.slope) + half)
