"""Splits: a price that jumps by a whole factor between two bars, while the holding's value does not.

The exchange's leveraged tokens had reverse splits of 100,000 to 1 that its candles do not adjust. Taken for
a return, one such bar decides every statistic, so a suspected split stops the run until the user settles it.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from pairfolio.data.candles import Candles
from pairfolio.errors import DataError

# Smallest jump from close to the next open taken for a split; crashes inside a bar do not count.
SUSPECT_FACTOR = 3.0
# A guessed factor may differ from the jump by this much, for the market moves during the halt.
TOLERANCE = 1.3
USUAL_FACTORS = (
    3.0,
    4.0,
    5.0,
    8.0,
    10.0,
    15.0,
    20.0,
    25.0,
    30.0,
    40.0,
    50.0,
    *(10.0**k for k in range(2, 10)),
)


class Split(NamedTuple):
    """Older prices must be multiplied by `factor` from `time` backward.

    Attributes:
        time: Opening of the first bar in new units.
        jump: Close of that bar over the close before it.
        factor: The usual split factor nearest to the jump, or nan if none is near.
        row: Line of the file.
    """

    time: pd.Timestamp
    jump: float
    factor: float
    row: int


def find_splits(candles: Candles) -> list[Split]:
    """Jumps from one close to the next open that no trading explains."""
    frame = candles.frame
    opens, closes = frame["open"].to_numpy(), frame["close"].to_numpy()
    gaps = np.abs(np.log(opens[1:] / closes[:-1]))
    rows = np.flatnonzero(gaps >= np.log(SUSPECT_FACTOR)) + 1
    return [_split(candles, int(row), float(closes[row] / closes[row - 1])) for row in rows]


def _split(candles: Candles, row: int, jump: float) -> Split:
    size = max(jump, 1 / jump)
    near = min(USUAL_FACTORS, key=lambda usual: abs(np.log(usual / size)))
    guess = near if abs(np.log(near / size)) <= np.log(TOLERANCE) else float("nan")
    factor = guess if jump > 1 else 1 / guess
    return Split(pd.Timestamp(candles.frame.index[row]), jump, factor, row + candles.first_line)


def adjust(candles: Candles, time: pd.Timestamp, factor: float) -> Candles:
    """Multiply prices before `time` by `factor` and divide volumes by it.

    Raises:
        DataError: If the file has no bar at `time` or the factor is not positive.
    """
    if time not in candles.frame.index or not (np.isfinite(factor) and factor > 0):
        raise DataError(
            f"{candles.name}: no split of factor {factor:g} can be set at {time.isoformat()}; "
            "name the opening of the first bar in new units and a factor above zero"
        )
    frame = candles.frame.copy()
    old = frame.index < time
    frame.loc[old, ["open", "high", "low", "close"]] *= factor
    frame.loc[old, "volume"] /= factor
    return replace(candles, frame=frame)


def settle_splits(candles: Candles, adjust_found: bool) -> tuple[Candles, list[Split]]:
    """Adjust the splits found if the user asked for it, else refuse the file.

    Raises:
        DataError: If a split is suspected and `adjust_found` is off, or its factor cannot be told.
    """
    found = find_splits(candles)
    for split in found:
        if not adjust_found or np.isnan(split.factor):
            stamp = split.time.strftime("%Y-%m-%dT%H:%M:%SZ")
            hint = "" if np.isnan(split.factor) else "adjust it with --adjust-splits, or "
            raise DataError(
                f"{candles.name}, row {split.row}: the price is {split.jump:,.6g} times that of the row "
                f"before, which looks like a split; {hint}state it with --split {candles.name}@{stamp}=FACTOR"
            )
        candles = adjust(candles, split.time, split.factor)
    return candles, found
