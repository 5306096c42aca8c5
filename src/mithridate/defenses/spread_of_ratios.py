"""How far log-likelihood ratios of the provider's rows lie apart, which tells what a temperature in nats must be."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean, pvariance

from torch import Tensor

from mithridate.errors import DefenseError
from mithridate.models.modes import evaluating
from mithridate.models.tokenization import TokenizedRow
from mithridate.training.scored_rows import ScoredRows
from mithridate.training.step import Step

MEASURED = ("safe", "harmful")
"""The streams that ``temperature="auto"`` measures on."""
FEWEST = 8
"""Rows of either that it takes at least."""
LEAST_DEVIATION = 1e-3
"""Standard deviation below which ratios, in nats, differ by hardly more than rounding."""

Ratio = Callable[[ScoredRows], Tensor]
"""Gives d of rows that were scored with refusals in their pairs."""


def deviation_of_ratios(step: Step, rows: int, ratio: Ratio) -> float:
    """Return the standard deviation of d over both streams, of which either counts half however many rows it has.

    Args:
        step: Scores rows under the present weights, without dropout.
        rows: Most rows of either stream.
        ratio: d of rows, in nats.

    Raises:
        DefenseError: If there are too few rows, or their ratios are not finite or hardly differ.
    """
    drawn = {stream: step.sample(stream, rows) for stream in MEASURED}
    for stream, found in drawn.items():
        if len(found) < FEWEST:
            raise DefenseError(
                f"temperature='auto' measures on at least {FEWEST} rows of each of the streams 'safe' and "
                f"'harmful', and '{stream}' has {len(found)}; give more rows, or a temperature in nats"
            )
    with evaluating(step.model):
        safe, harmful = (_ratios(step, stream, found, ratio) for stream, found in drawn.items())
    deviation = _together(safe, harmful)
    if deviation < LEAST_DEVIATION:
        raise DefenseError(
            f"temperature='auto': the log-likelihood ratios of {len(safe)} safe and {len(harmful)} harmful rows "
            f"have a standard deviation of {deviation:.1e} nats, so they tell no rows apart; check that harmful "
            "rows are answers and no refusals, or give a temperature in nats"
        )
    return deviation


def _ratios(step: Step, stream: str, rows: Sequence[TokenizedRow], ratio: Ratio) -> list[float]:
    """Return d of rows of a stream, those of all processes."""
    mine = [
        pair
        for scored in step.score(rows, paired="refusals")
        for pair in zip(scored.row.tolist(), ratio(scored).tolist(), strict=True)
    ]
    found = [pair for part in step.gather(mine) for pair in part]
    for row, value in found:
        if not math.isfinite(value):
            raise DefenseError(
                f"temperature='auto': the log-likelihood ratio of row {row} of the stream '{stream}' is {value}, "
                "not finite; check the model and that row, or give a temperature in nats"
            )
    return [value for _, value in found]


def _together(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the standard deviation of two sets together, each of which counts half."""
    between = (fmean(first) - fmean(second)) / 2
    return math.sqrt((pvariance(first) + pvariance(second)) / 2 + between**2)
