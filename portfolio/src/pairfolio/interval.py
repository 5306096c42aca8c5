"""Bar intervals and the number of bars in a year, on which every annualized figure rests."""

import numpy as np
import pandas as pd

from pairfolio.errors import DataError, SettingsError

YEAR = pd.Timedelta(days=365.25)


def bars_per_year(interval: pd.Timedelta) -> float:
    """Bars in a Julian year of a market that never closes: 8766 for 1h, 2191.5 for 4h, 365.25 for 1d.

    Raises:
        SettingsError: If the interval is not positive.
    """
    if interval <= pd.Timedelta(0):
        raise SettingsError(f"the interval {interval} is not positive; give one such as 1h, 4h or 1d")
    return float(YEAR / interval)


def parse_interval(text: str) -> pd.Timedelta:
    """Read `15m`, `1h`, `4h`, `1d`.

    Raises:
        SettingsError: If the text is none of that form.
    """
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or unit not in seconds or int(number) == 0:
        raise SettingsError(
            f"interval {text!r} is not understood; write a number and s, m, h or d, such as 4h"
        )
    return pd.Timedelta(seconds=int(number) * seconds[unit])


def interval_name(interval: pd.Timedelta) -> str:
    """Write an interval the way `parse_interval` reads it."""
    seconds = int(interval.total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def infer_interval(times: pd.DatetimeIndex, name: str) -> pd.Timedelta:
    """The most frequent step between bars; every other step must be a multiple of it.

    Args:
        times: Strictly increasing opening times.
        name: File the times come from, for the error.

    Raises:
        DataError: If some bar is off the grid that the others form.
    """
    steps = np.diff(times.as_unit("us").asi8)
    values, counts = np.unique(steps, return_counts=True)
    usual = int(values[np.argmax(counts)])
    interval = pd.Timedelta(microseconds=usual)
    off = np.flatnonzero(steps % usual)
    if len(off):
        place = times[int(off[0]) + 1]
        raise DataError(
            f"{name}: the bar at {place.isoformat()} is off the {interval_name(interval)} grid of the file; "
            "give candles of one interval"
        )
    return interval
