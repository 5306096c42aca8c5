"""Features of each bar, made from that bar and earlier ones only."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from pairfolio.config import FeatureSettings
from pairfolio.data.pair import Pair

# Standardized features are cut here, so that one broken hour cannot drive the network.
CLIP = 5.0


def warm_up(settings: FeatureSettings) -> int:
    """Bars at the start whose features are not yet defined."""
    return max(*settings.horizons, settings.volume_bars - 1)


def pair_features(pair: Pair, settings: FeatureSettings) -> np.ndarray:
    """Features of A, B and the underlying side by side, shape (bars, features).

    The first `warm_up` rows are nan.
    """
    return np.hstack([_asset(frame, settings) for frame in pair.frames])


def _asset(frame: pd.DataFrame, settings: FeatureSettings) -> np.ndarray:
    close = frame["close"].to_numpy()
    logs = pd.Series(np.log(close))
    columns = [(logs - logs.shift(horizon)).to_numpy() for horizon in settings.horizons]
    high, low = frame["high"].to_numpy(), frame["low"].to_numpy()
    span = high - low
    flat = span <= 0
    columns.append(np.log(high / low))
    # A bar without range closes at its middle.
    columns.append(np.where(flat, 0.5, (close - low) / np.where(flat, 1.0, span)))
    columns.append(_surprise(np.log1p(frame["volume"].to_numpy()), settings.volume_bars))
    return np.column_stack(columns)


def _surprise(values: np.ndarray, bars: int) -> np.ndarray:
    """Standard score of each value among the last `bars`, 0 where those are all equal.

    Windows are summed one by one: a running sum would carry rounding of one bar into all later ones.
    """
    out = np.full(len(values), np.nan)
    if len(values) >= bars:
        windows = np.lib.stride_tricks.sliding_window_view(values, bars)
        spread = windows.std(axis=1)
        still = spread < 1e-12
        out[bars - 1 :] = np.where(
            still, 0.0, (values[bars - 1 :] - windows.mean(axis=1)) / np.where(still, 1.0, spread)
        )
    return out


class Scaling(NamedTuple):
    """Mean and standard deviation of each feature over a training block, shape (features,)."""

    mean: np.ndarray
    spread: np.ndarray

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Features minus the mean, over the standard deviation, cut at ±`CLIP`; shape (bars, features)."""
        return np.asarray(np.clip((features - self.mean) / self.spread, -CLIP, CLIP))


def fit_scaling(features: np.ndarray, rows: slice) -> Scaling:
    """The scaling of some rows; a feature that never moves there is left at its size."""
    block = features[rows]
    spread = block.std(axis=0)
    return Scaling(block.mean(axis=0), np.where(spread > 0, spread, 1.0))


def feature_names(settings: FeatureSettings, assets: int) -> list[str]:
    """The columns of `pair_features` in order, such as `A: return over 3`."""
    own = [f"return over {horizon}" for horizon in settings.horizons]
    own += ["log range", "close in range", f"volume against {settings.volume_bars}"]
    return [f"{asset}: {name}" for asset in ("A", "B", "underlying")[:assets] for name in own]
