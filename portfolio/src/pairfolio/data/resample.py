"""Longer bars from shorter ones, made of complete groups only."""

from dataclasses import replace

import pandas as pd

from pairfolio.data.candles import Candles
from pairfolio.errors import SettingsError
from pairfolio.interval import interval_name


def resample(candles: Candles, interval: pd.Timedelta) -> Candles:
    """Join bars to a longer interval counted from midnight UTC; an incomplete group becomes a gap.

    Raises:
        SettingsError: If the interval is not a multiple of the candles' own.
    """
    if interval == candles.interval:
        return candles
    if interval < candles.interval or interval % candles.interval != pd.Timedelta(0):
        raise SettingsError(
            f"{candles.name}: bars of {interval_name(candles.interval)} cannot be joined to "
            f"{interval_name(interval)}; choose a multiple"
        )
    groups = candles.frame.resample(interval, origin="epoch")
    frame = groups.agg({"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"})
    complete = groups["close"].count() == interval // candles.interval
    return replace(candles, frame=frame[complete], interval=interval)
