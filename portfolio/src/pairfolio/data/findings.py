"""What is odd in candles but not wrong: gaps, idle bars, violent bars. Reported, never mended."""

import numpy as np
import pandas as pd
from pydantic import BaseModel

from pairfolio.data.candles import Candles
from pairfolio.data.splits import Jump, Split

# A bar whose close moved by more than this share against the close before is listed.
EXTREME_RETURN = 0.5


class Gap(BaseModel):
    """Bars missing between two bars; the return across them counts as one step."""

    last: str
    next: str
    missing: int


class Event(BaseModel):
    """One bar worth naming, with its return or split factor."""

    time: str
    value: float


class OpenJump(Event):
    """A jump from a close to the next open that may be a small split; the value is the open over the close.

    Attributes:
        volume_change: Units traded in the day after over those of the day before.
    """

    volume_change: float | None


class FileFindings(BaseModel):
    """What one file holds."""

    name: str
    sha256: str | None
    rows: int
    first: str
    last: str
    interval: str
    gaps: list[Gap]
    missing_bars: int
    zero_volume_bars: int
    unchanged_bars: int
    extreme_returns: list[Event]
    adjusted_splits: list[Event]
    possible_splits: list[OpenJump]


def stamp(time: pd.Timestamp) -> str:
    """A time as ISO 8601 with Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def find_gaps(times: pd.DatetimeIndex, interval: pd.Timedelta) -> list[Gap]:
    """Every place where bars are missing."""
    steps = (times[1:] - times[:-1]) // interval
    return [
        Gap(last=stamp(times[i]), next=stamp(times[i + 1]), missing=int(steps[i]) - 1)
        for i in np.flatnonzero(np.asarray(steps) > 1).tolist()
    ]


def examine(candles: Candles, interval: str, adjusted: list[Split], jumps: list[Jump]) -> FileFindings:
    """List what a reader of the results should know about one file."""
    frame, times = candles.frame, pd.DatetimeIndex(candles.frame.index)
    gaps = find_gaps(times, candles.interval)
    closes = frame["close"].to_numpy()
    returns = closes[1:] / closes[:-1] - 1
    return FileFindings(
        name=candles.name,
        sha256=candles.sha256,
        rows=len(frame),
        first=stamp(times[0]),
        last=stamp(times[-1]),
        interval=interval,
        gaps=gaps,
        missing_bars=sum(gap.missing for gap in gaps),
        zero_volume_bars=int((frame["volume"] == 0).sum()),
        unchanged_bars=int((frame["high"] == frame["low"]).sum()),
        extreme_returns=[
            Event(time=stamp(times[i + 1]), value=float(returns[i]))
            for i in np.flatnonzero(np.abs(returns) > EXTREME_RETURN).tolist()
        ],
        adjusted_splits=[Event(time=stamp(split.time), value=split.factor) for split in adjusted],
        possible_splits=[
            OpenJump(time=stamp(jump.time), value=jump.factor, volume_change=jump.volume_change)
            for jump in jumps
        ],
    )
