"""How well row weights separate harmful rows from benign ones."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from mithridate.report.result_parts import WeightedRows


@dataclass(frozen=True)
class Separation:
    """Figures over the rows whose label is known.

    Attributes:
        auroc: Chance that a benign row weighs more than a harmful one, ties counted half (Mann-Whitney U / nm).
        weight_share: Share of the total weight that lies on harmful rows.
        row_share: Share of the rows that are harmful.
        known: Number of rows with a known label.
        unknown: Number of rows without.
    """

    auroc: float
    weight_share: float
    row_share: float
    known: int
    unknown: int


def separation(weights: WeightedRows) -> Separation | None:
    """Return the figures, or None where one of the two labels has no row or all weights are zero."""
    # `is True`, as a label may be unknown (None), which is neither of the two.
    harmful = sorted(row.weight for row in weights.rows if row.harmful is True)
    benign = [row.weight for row in weights.rows if row.harmful is False]
    total = sum(harmful) + sum(benign)
    if not harmful or not benign or total == 0:
        return None
    # The mean of both places counts a tie as one half; sorted, so that 100,000 rows take no 10^10 pairs.
    wins = sum((bisect_left(harmful, weight) + bisect_right(harmful, weight)) / 2 for weight in benign)
    known = len(harmful) + len(benign)
    return Separation(
        auroc=wins / (len(harmful) * len(benign)),
        weight_share=sum(harmful) / total,
        row_share=len(harmful) / known,
        known=known,
        unknown=len(weights.rows) - known,
    )
