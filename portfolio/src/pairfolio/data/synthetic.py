"""An opposed pair made up for demonstrations and tests: +3 and −3 times a spot price, less a daily fee.

The spot passes through a rise, a fall and a calm, with clustered volatility, and no feature of the past tells
its next return unless a signal is planted on purpose.
"""

import numpy as np
import pandas as pd

from pairfolio.data.candles import Candles
from pairfolio.data.pair import Pair, between, join

LEVERAGE = 3.0
DAILY_FEE = 1e-4
START = "2030-01-01T00:00:00Z"
# Name, share of the span, drift a year in logs.
PHASES = (("calm", 0.25, 0.0), ("rise", 0.25, 0.9), ("fall", 0.25, -0.9), ("calm again", 0.25, 0.0))


def synthetic_pair(
    bars: int = 4380,
    *,
    interval: str = "4h",
    volatility: float = 0.6,
    tracking: float = 0.001,
    signal: float = 0.0,
    drift: bool = True,
    seed: int = 7,
    before: pd.Timestamp | None = None,
) -> Pair:
    """Make an opposed pair with its spot.

    Args:
        bars: Candles of each series.
        interval: Their interval.
        volatility: Of the spot, a year.
        tracking: Noise of each token against its leverage, a bar.
        signal: Share of a bar's standard deviation that the bar before foretells; 0 plants nothing.
        drift: Whether the spot passes through the phases.
        seed: Of the generator.
        before: Bars from here on are set aside.
    """
    step = pd.Timedelta(interval)
    rng = np.random.default_rng(seed)
    per_year = float(pd.Timedelta(days=365.25) / step)
    scale = volatility / np.sqrt(per_year) * _clusters(bars, rng)
    noise = rng.standard_normal(bars)
    foretold = signal * np.sign(np.concatenate([[0.0], noise[:-1]]))
    trend = _trend(bars, per_year) if drift else np.zeros(bars)
    spot = scale * (noise + foretold) + trend - scale**2 / 2
    daily = DAILY_FEE * float(step / pd.Timedelta(days=1))
    simple = np.expm1(spot)
    tokens = [
        np.log1p(np.clip(sign * LEVERAGE * simple - daily + tracking * rng.standard_normal(bars), -0.9, None))
        for sign in (1, -1)
    ]
    times = pd.date_range(START, periods=bars, freq=step, name="open_time").as_unit("us")
    names = ("SYNTHETIC-UP", "SYNTHETIC-DOWN", "SYNTHETIC-SPOT")
    series = [
        Candles(name, _candles(logs, start, times, rng), step)
        for name, logs, start in zip(names, [*tokens, spot], (100.0, 100.0, 30000.0), strict=True)
    ]
    return join([between(part, None, before) for part in series])


def phases(times: pd.DatetimeIndex) -> list[tuple[str, pd.Timestamp, pd.Timestamp]]:
    """Name, start and end of each phase of the spot."""
    edges = np.cumsum([0.0, *(share for _, share, _ in PHASES)])
    span = times[-1] - times[0]
    return [
        (name, times[0] + span * float(edges[i]), times[0] + span * float(edges[i + 1]))
        for i, (name, _, _) in enumerate(PHASES)
    ]


def _clusters(bars: int, rng: np.random.Generator) -> np.ndarray:
    """Relative volatility: an autoregressive log-level, mean square near one."""
    level, levels = 0.0, np.empty(bars)
    for i, shock in enumerate(rng.standard_normal(bars)):
        level = 0.98 * level + 0.06 * shock
        levels[i] = level
    return np.asarray(np.exp(levels - np.var(levels)))


def _trend(bars: int, per_year: float) -> np.ndarray:
    edges = np.round(np.cumsum([share for _, share, _ in PHASES]) * bars).astype(int)
    drifts = np.array([yearly / per_year for _, _, yearly in PHASES])
    return np.asarray(drifts[np.searchsorted(edges, np.arange(bars), side="right").clip(0, len(PHASES) - 1)])


def _candles(
    logs: np.ndarray, start: float, times: pd.DatetimeIndex, rng: np.random.Generator
) -> pd.DataFrame:
    close = start * np.exp(np.cumsum(logs))
    opened = np.concatenate([[start], close[:-1]])
    wick = np.abs(rng.standard_normal((2, len(logs)))) * np.std(logs) / 3
    high = np.maximum(opened, close) * np.exp(wick[0])
    low = np.minimum(opened, close) * np.exp(-wick[1])
    volume = np.exp(8 + rng.standard_normal(len(logs)) / 2 + 20 * np.abs(logs))
    columns = {"open": opened, "high": high, "low": low, "close": close, "volume": volume}
    return pd.DataFrame(columns, index=times)
