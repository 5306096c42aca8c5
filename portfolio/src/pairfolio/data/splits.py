"""Splits: a price that jumps by a whole factor between two bars, while the holding's value does not.

The exchange's leveraged tokens had reverse splits of 100,000 to 1 that its candles do not adjust. Taken for
a return, one such bar decides every statistic, so a suspected split stops the run until the user settles it.

A 3-fold jump from a close to the next open is suspected by itself. A smaller one, down to 1.2-fold, is
suspected where the underlying is given and did not make it: what is left of the jump after the underlying's
own, times the asset's slope on it, is compared. Without the underlying it is only reported, with the day's
volume against the day before: a split of 2 for 1 halves the price and doubles the units traded, though volume
often doubles by itself.

Not detectable: factors below 1.2; a small split without an underlying, beyond the report; one at a jump of
the market that hides it; one that the underlying shares; one before the first bar or inside a bar.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from pairfolio.data.candles import Candles
from pairfolio.errors import DataError

# Smallest jump from close to the next open taken for a split; crashes inside a bar do not count.
SUSPECT_FACTOR = 3.0
# Smallest jump looked at; without a halt, the shared tokens moved at most 1.06-fold from close to open.
SMALL_FACTOR = 1.2
# A guessed factor may differ from the jump by this much, for the market moves during the halt.
TOLERANCE = 1.3
SMALL_TOLERANCE = 1.06
SMALL_FACTORS = (1.25, 4 / 3, 1.5, 2.0, 2.5, 3.0)
# A slope on the underlying needs this many bars.
FEWEST_BARS = 30
DAY = pd.Timedelta(days=1)
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
        jump: Close of that bar over the close before it; for a small split, what the underlying leaves of
            its open over the close before.
        factor: The usual split factor nearest to the jump, or nan if none is near.
        row: Line of the file.
    """

    time: pd.Timestamp
    jump: float
    factor: float
    row: int


class Jump(NamedTuple):
    """A jump that may be a small split, where no underlying tells.

    Attributes:
        time: Opening of the bar.
        factor: Its open over the close before.
        volume_change: Units traded in the day from it on over those of the day before, if any.
    """

    time: pd.Timestamp
    factor: float
    volume_change: float | None


def find_splits(candles: Candles, underlying: Candles | None = None) -> list[Split]:
    """Jumps from one close to the next open that neither trading nor the underlying explains."""
    closes, jumps = candles.frame["close"].to_numpy(), _jumps(candles.frame)
    large = np.abs(jumps) >= np.log(SUSPECT_FACTOR)
    left = _beyond(candles, underlying)
    small = ~large & (np.abs(left) >= np.log(SMALL_FACTOR))
    found = []
    for row in np.flatnonzero(large | small).tolist():
        if large[row]:
            jump, usual, tolerance = float(closes[row + 1] / closes[row]), USUAL_FACTORS, TOLERANCE
        else:
            jump, usual, tolerance = float(np.exp(left[row])), SMALL_FACTORS, SMALL_TOLERANCE
        found.append(_split(candles, row + 1, jump, usual, tolerance))
    return found


def find_jumps(candles: Candles, underlying: Candles | None, settled: list[Split]) -> list[Jump]:
    """Jumps that would be small splits, at bars where no underlying tells and nothing is settled."""
    times = pd.DatetimeIndex(candles.frame.index)
    jumps, volume = _jumps(candles.frame), candles.frame["volume"]
    open_question = (np.abs(jumps) >= np.log(SMALL_FACTOR)) & np.isnan(_beyond(candles, underlying))
    known = {split.time for split in settled}
    return [
        Jump(times[row + 1], float(np.exp(jumps[row])), _volume_change(volume, times[row + 1]))
        for row in np.flatnonzero(open_question).tolist()
        if times[row + 1] not in known
    ]


def _jumps(frame: pd.DataFrame) -> np.ndarray:
    """Logarithm of each open over the close before it, shape (bars - 1,)."""
    return np.asarray(np.log(frame["open"].to_numpy()[1:] / frame["close"].to_numpy()[:-1]))


def _beyond(candles: Candles, underlying: Candles | None) -> np.ndarray:
    """What the underlying's jump, times the slope on it, leaves of each jump; nan where that cannot be told.

    The slope is that of moves inside bars, which no split reaches.
    """
    frame = candles.frame
    if underlying is None:
        return np.full(len(frame) - 1, np.nan)
    other = underlying.frame.reindex(frame.index)
    own, theirs = (np.log(part["close"].to_numpy() / part["open"].to_numpy()) for part in (frame, other))
    shared = np.isfinite(theirs)
    power = float(np.sum(theirs[shared] ** 2))
    if shared.sum() < FEWEST_BARS or power == 0:
        return np.full(len(frame) - 1, np.nan)
    slope = float(np.sum(own[shared] * theirs[shared])) / power
    return np.asarray(_jumps(frame) - slope * _jumps(other))


def _volume_change(volume: pd.Series, time: pd.Timestamp) -> float | None:
    after = float(volume[(volume.index >= time) & (volume.index < time + DAY)].sum())
    earlier = volume[volume.index < time]
    # The last day that was traded: a halt lies between the two units.
    before = float(earlier[earlier.index > earlier.index[-1] - DAY].sum())
    return after / before if before > 0 else None


def _split(candles: Candles, row: int, jump: float, usual: tuple[float, ...], tolerance: float) -> Split:
    size = max(jump, 1 / jump)
    near = min(usual, key=lambda factor: abs(np.log(factor / size)))
    guess = near if abs(np.log(near / size)) <= np.log(tolerance) else float("nan")
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


def settle_splits(
    candles: Candles,
    adjust_found: bool,
    underlying: Candles | None = None,
    stated: list[tuple[pd.Timestamp, float]] | None = None,
) -> tuple[Candles, list[Split]]:
    """Apply the splits stated; adjust those found beside them if the user asked for it, else refuse the file.

    Args:
        candles: Of one asset.
        adjust_found: Adjust suspected splits by their usual factor.
        underlying: Its candles, free of splits.
        stated: First bar in new units, and factor; a factor of 1 says that there was none.

    Raises:
        DataError: If a split is suspected and `adjust_found` is off, or its factor cannot be told.
    """
    settled = []
    for time, factor in stated or []:
        candles = adjust(candles, time, factor)
        settled.append(Split(time, np.nan, factor, 0))
    known = {split.time for split in settled}
    for split in find_splits(candles, underlying):
        if split.time in known:
            continue
        if not adjust_found or np.isnan(split.factor):
            raise DataError(_refusal(candles.name, split))
        candles = adjust(candles, split.time, split.factor)
        settled.append(split)
    return candles, settled


def _refusal(name: str, split: Split) -> str:
    stamp = split.time.strftime("%Y-%m-%dT%H:%M:%SZ")
    hint = "" if np.isnan(split.factor) else "adjust it with --adjust-splits, or "
    said = f"the price is {split.jump:,.6g} times that of the row before"
    if 1 / SUSPECT_FACTOR < split.jump < SUSPECT_FACTOR:
        said = f"from close to open the price moved {split.jump:.3g}-fold beyond its underlying"
    return (
        f"{name}, row {split.row}: {said}, which looks like a split; {hint}state it with "
        f"--split {name}@{stamp}=FACTOR, where 1 says that there was none"
    )
