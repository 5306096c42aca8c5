"""Two assets (and, if given, their underlying) on the bars they share."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel

from pairfolio.data.candles import Candles, load_candles
from pairfolio.data.findings import FileFindings, Gap, examine, find_gaps
from pairfolio.data.resample import resample
from pairfolio.data.splits import Jump, Split, find_jumps, settle_splits
from pairfolio.errors import DataError
from pairfolio.interval import bars_per_year, interval_name


class Lost(BaseModel):
    """Bars of one file that the others lack, and which are therefore not used."""

    name: str
    before: int
    inside: int
    after: int


class PairFindings(BaseModel):
    """What the files hold, alone and together."""

    interval: str
    bars_per_year: float
    common_bars: int
    first: str
    last: str
    correlation: float
    gaps: list[Gap]
    lost: list[Lost]
    files: list[FileFindings]


@dataclass(frozen=True)
class Pair:
    """Candles of both assets on common times.

    Attributes:
        names: Names of asset A and asset B.
        times: Opening of each bar, UTC.
        frames: Candles of A and B, and of the underlying if there is one.
        interval: Time from one bar to the next.
        findings: What was found in the data.
    """

    names: tuple[str, str]
    times: pd.DatetimeIndex
    frames: tuple[pd.DataFrame, ...]
    interval: pd.Timedelta
    findings: PairFindings

    @property
    def returns(self) -> np.ndarray:
        """Simple close-to-close returns of A and B, shape (bars - 1, 2); a gap counts as one step."""
        closes = np.column_stack([frame["close"].to_numpy() for frame in self.frames[:2]])
        return np.asarray(closes[1:] / closes[:-1] - 1)

    @property
    def slots(self) -> np.ndarray:
        """Number of each bar on the grid of its interval, counted from 1970, shape (bars,)."""
        return np.asarray(self.times.as_unit("us").asi8 // int(self.interval / pd.Timedelta(microseconds=1)))

    @property
    def spot_returns(self) -> np.ndarray | None:
        """Simple returns of the underlying, shape (bars - 1,), or None without one."""
        if len(self.frames) < 3:
            return None
        close = self.frames[2]["close"].to_numpy()
        return np.asarray(close[1:] / close[:-1] - 1)


def load_pair(
    paths: list[Path],
    *,
    interval: pd.Timedelta | None = None,
    adjust_splits: bool = False,
    splits: dict[str, list[tuple[pd.Timestamp, float]]] | None = None,
    start: pd.Timestamp | None = None,
    end: pd.Timestamp | None = None,
    before: pd.Timestamp | None = None,
) -> Pair:
    """Read A, B and perhaps the underlying, settle splits, and join them.

    Args:
        paths: Two or three candle files.
        interval: Join the bars to this longer interval.
        adjust_splits: Adjust suspected splits by their usual factor instead of refusing them.
        splits: Splits stated by the user: file name to (first bar in new units, factor).
        start: First opening time used.
        end: First opening time no longer used.
        before: Bars from here on are set aside: dropped before anything but their form is looked at.

    Raises:
        DataError: If a file is bad, holds an unsettled split, or the files do not fit together.
    """
    stated, unknown = splits or {}, set(splits or {}) - {path.name for path in paths}
    if unknown:
        raise DataError(
            f"a split is stated for {', '.join(sorted(unknown))}, which is none of the files given"
        )
    underlying: Candles | None = None
    candles: list[Candles] = []
    adjusted: list[list[Split]] = []
    jumps: list[list[Jump]] = []
    # The underlying comes first, for the other two are compared with it.
    for path in reversed(paths):
        own = [split for split in stated.get(path.name, []) if before is None or split[0] < before]
        loaded = between(load_candles(path), None, before)
        settled, found = settle_splits(loaded, adjust_splits, underlying, own)
        cut = between(settled, start, end)
        candles.insert(0, cut if interval is None else resample(cut, interval))
        adjusted.insert(0, found)
        jumps.insert(0, find_jumps(cut, underlying, found))
        if len(paths) == 3 and underlying is None:
            underlying = settled
    return join(candles, adjusted, jumps)


def join(
    candles: list[Candles],
    adjusted: list[list[Split]] | None = None,
    jumps: list[list[Jump]] | None = None,
) -> Pair:
    """Keep the bars that all files share and report the rest.

    Raises:
        DataError: If intervals differ or fewer than two bars are shared.
    """
    names = [part.name for part in candles]
    if len({part.interval for part in candles}) > 1:
        listed = ", ".join(f"{part.name} {interval_name(part.interval)}" for part in candles)
        raise DataError(
            f"the files have different intervals ({listed}); give one interval, or use --interval"
        )
    times = pd.DatetimeIndex(candles[0].frame.index)
    for part in candles[1:]:
        times = times.intersection(pd.DatetimeIndex(part.frame.index))
    if len(times) < 2:
        raise DataError(f"{' and '.join(names)} share {len(times)} bars; give files of the same time range")
    frames = tuple(part.frame.loc[times] for part in candles)
    nothing: list[list[Any]] = [[] for _ in candles]
    findings = _findings(candles, adjusted or nothing, jumps or nothing, times, frames)
    return Pair((_short(names[0]), _short(names[1])), times, frames, candles[0].interval, findings)


def between(candles: Candles, start: pd.Timestamp | None, end: pd.Timestamp | None) -> Candles:
    """The candles that open in [start, end).

    Raises:
        DataError: If fewer than two do.
    """
    times = candles.frame.index
    kept = np.ones(len(times), dtype=bool)
    if start is not None:
        kept &= times >= start
    if end is not None:
        kept &= times < end
    if kept.sum() < 2:
        raise DataError(
            f"{candles.name}: {int(kept.sum())} candles lie in the range asked for; "
            f"the file runs from {times[0].isoformat()} to {times[-1].isoformat()}"
        )
    return replace(candles, frame=candles.frame[kept])


def _short(name: str) -> str:
    """`BTCUPUSDT_1h.csv.gz` is shown as `BTCUPUSDT_1h`."""
    return name.removesuffix(".gz").removesuffix(".csv")


def _findings(
    candles: list[Candles],
    adjusted: list[list[Split]],
    jumps: list[list[Jump]],
    times: pd.DatetimeIndex,
    frames: tuple[pd.DataFrame, ...],
) -> PairFindings:
    interval = candles[0].interval
    name = interval_name(interval)
    files = [
        examine(part, name, *found)
        for part, found in zip(candles, zip(adjusted, jumps, strict=True), strict=True)
    ]
    a, b = (frame["close"].pct_change().to_numpy()[1:] for frame in frames[:2])
    moving = bool(np.std(a) > 0 and np.std(b) > 0)
    return PairFindings(
        interval=name,
        bars_per_year=bars_per_year(interval),
        common_bars=len(times),
        first=times[0].strftime("%Y-%m-%dT%H:%M:%SZ"),
        last=times[-1].strftime("%Y-%m-%dT%H:%M:%SZ"),
        correlation=float(np.corrcoef(a, b)[0, 1]) if moving else 0.0,
        gaps=find_gaps(times, interval),
        lost=[_lost(part, times) for part in candles],
        files=files,
    )


def _lost(candles: Candles, times: pd.DatetimeIndex) -> Lost:
    own = pd.DatetimeIndex(candles.frame.index)
    inside = (own >= times[0]) & (own <= times[-1]) & ~own.isin(times)
    return Lost(
        name=candles.name,
        before=int((own < times[0]).sum()),
        inside=int(inside.sum()),
        after=int((own > times[-1]).sum()),
    )
