"""Candles of the experiments: 1h as kept; 4h from listing, prolonged by 1h joined to 4h."""

import numpy as np
import pandas as pd

from pairfolio.data.candles import Candles, check_frame, load_candles
from pairfolio.data.pair import Pair, join, load_pair
from pairfolio.data.resample import resample
from pairfolio.data.splits import settle_splits
from pairfolio.errors import DataError
from pairfolio.sources import market_files

START = pd.Timestamp("2020-08-10", tz="UTC")


def long_pair(market: str) -> Pair:
    """UP, DOWN and spot of a market, 4h, August 2020 to December 2023.

    Raises:
        DataError: If the two sources differ on a bar they share.
    """
    files = zip(market_files(market, "4h"), market_files(market, "1h"), strict=True)
    return join([_prolong(load_candles(old), load_candles(new)) for old, new in files])


def hourly_pair(market: str) -> Pair:
    """UP, DOWN and spot of a market, 1h, April 2021 to December 2023."""
    return load_pair(market_files(market, "1h"), adjust_splits=True)


def _prolong(old: Candles, new: Candles) -> Candles:
    older = settle_splits(old, True)[0].frame
    newer = resample(settle_splits(new, True)[0], old.interval).frame
    shared = older.index.intersection(newer.index)
    if not np.allclose(older.loc[shared], newer.loc[shared], rtol=1e-9):
        raise DataError(f"{old.name} and {new.name} differ on a bar they share")
    frame = pd.concat([older, newer[newer.index > older.index[-1]]])
    frame = frame[frame.index >= START]
    check_frame(old.name, frame)
    return Candles(old.name, frame, old.interval)
