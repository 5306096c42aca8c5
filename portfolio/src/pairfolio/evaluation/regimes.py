"""Market situations by date."""

import numpy as np
import pandas as pd

Regime = tuple[str, pd.Timestamp, pd.Timestamp]

# Situations of the crypto market by the course of spot BTC; the end is not included.
CRYPTO = (
    ("crash", "2021-05-01", "2021-07-20"),
    ("bull", "2021-07-20", "2021-11-10"),
    ("bear", "2022-03-28", "2022-06-19"),
    ("sideways", "2022-06-19", "2022-11-05"),
    ("shock", "2022-11-05", "2023-01-01"),
    ("recovery", "2023-01-01", "2023-04-15"),
    ("quiet", "2023-04-15", "2023-10-15"),
)


def crypto_regimes() -> list[Regime]:
    """The situations of 2021 to 2023."""
    return [(name, pd.Timestamp(start, tz="UTC"), pd.Timestamp(end, tz="UTC")) for name, start, end in CRYPTO]


def quarters(times: pd.DatetimeIndex) -> list[Regime]:
    """Calendar quarters that the times touch, for series without named situations."""
    starts = pd.DatetimeIndex(times.tz_localize(None).to_period("Q").unique().to_timestamp()).tz_localize(
        "UTC"
    )
    return [(f"{start.year} Q{start.quarter}", start, start + pd.DateOffset(months=3)) for start in starts]


def choose(times: pd.DatetimeIndex) -> list[Regime]:
    """The crypto situations if the times touch any of them, else quarters."""
    named = crypto_regimes()
    touched = any(((times >= start) & (times < end)).any() for _, start, end in named)
    return named if touched else quarters(times)


def bars_within(times: pd.DatetimeIndex, start: pd.Timestamp, end: pd.Timestamp) -> np.ndarray:
    """Returns that begin and end inside [start, end): numbers k of steps from bar k to bar k + 1.

    Args:
        times: Opening of each bar; step k leads from times[k] to times[k + 1].
        start: First opening time that counts.
        end: First opening time that no longer counts.
    """
    inside = (times >= start) & (times < end)
    return np.flatnonzero(np.asarray(inside[:-1]) & np.asarray(inside[1:]))
