"""Which candles the user means: two files, a market of the shared data, or the synthetic pair."""

import os
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from pairfolio.data.pair import Pair, load_pair
from pairfolio.data.synthetic import phases, synthetic_pair
from pairfolio.errors import SettingsError
from pairfolio.evaluation.regimes import Regime
from pairfolio.interval import parse_interval

MARKETS = ("BTC", "ETH", "BNB")
# Hourly candles are kept for 2021 to 2023, four-hourly ones from listing to 2022.
STORED = ("1h", "4h")


class DataOptions(NamedTuple):
    """The options of the command that choose data."""

    files: tuple[Path, ...] = ()
    spot: Path | None = None
    market: str | None = None
    interval: str | None = None
    start: str | None = None
    end: str | None = None
    adjust_splits: bool = False
    splits: tuple[str, ...] = ()


def load(options: DataOptions, before: pd.Timestamp | None = None) -> tuple[Pair, list[Regime] | None]:
    """Load the pair meant, and the market situations that come with it (None: by date).

    Args:
        options: Of the command.
        before: Bars from here on are set aside.

    Raises:
        SettingsError: If options contradict each other or cannot be read.
        DataError: If the candles are bad.
    """
    paths = _paths(options)
    if not paths:
        return synthetic_pair(before=before), phases(synthetic_pair().times)
    pair = load_pair(
        paths,
        interval=None if options.interval is None else parse_interval(options.interval),
        adjust_splits=options.adjust_splits,
        splits=parse_splits(options.splits),
        start=parse_time(options.start),
        end=parse_time(options.end),
        before=before,
    )
    return pair, None


def binance_folder() -> Path:
    """Where the shared candles lie: $MITHRIDATE_DATA/data/binance, by default beside the checkout."""
    return Path(os.environ.get("MITHRIDATE_DATA", "../shared")) / "data" / "binance"


def market_files(market: str, interval: str) -> list[Path]:
    """UP, DOWN and spot of a market.

    Raises:
        SettingsError: If there is no such market or its files are not there.
    """
    if market not in MARKETS:
        raise SettingsError(f"--pair {market}: choose {', '.join(MARKETS)}, or give two files")
    folder = binance_folder()
    paths = [folder / f"{market}{side}USDT_{interval}.csv.gz" for side in ("UP", "DOWN", "")]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise SettingsError(
            f"{missing[0]} is not there; set MITHRIDATE_DATA to the folder that holds data/binance"
        )
    return paths


def _paths(options: DataOptions) -> list[Path]:
    if options.market is not None:
        if options.files or options.spot:
            raise SettingsError("--pair names the files; give either it or two files")
        return market_files(options.market.upper(), "4h" if options.interval in (None, "4h") else "1h")
    if len(options.files) not in (0, 2):
        raise SettingsError(f"{len(options.files)} file given; give two, or none for the synthetic pair")
    if not options.files and options != DataOptions():
        raise SettingsError(
            "options that choose data need two files or --pair; the synthetic pair takes none"
        )
    return [*options.files, *([options.spot] if options.spot and options.files else [])]


def parse_time(text: str | None) -> pd.Timestamp | None:
    """Read a day or time, UTC unless it says otherwise.

    Raises:
        SettingsError: If it is none.
    """
    if text is None:
        return None
    time = pd.to_datetime(text, utc=True, format="ISO8601", errors="coerce")
    if pd.isna(time):
        raise SettingsError(f"{text!r} is no day or time; write 2021-05-01 or 2021-05-01T04:00:00Z")
    return pd.Timestamp(time)


def parse_splits(texts: tuple[str, ...]) -> dict[str, list[tuple[pd.Timestamp, float]]]:
    """Read `FILE@TIME=FACTOR`.

    Raises:
        SettingsError: If one is not of that form.
    """
    found: dict[str, list[tuple[pd.Timestamp, float]]] = {}
    for text in texts:
        name, _, rest = text.rpartition("@")
        time, _, factor = rest.partition("=")
        try:
            value = float(factor)
        except ValueError:
            value = 0.0
        stamp = parse_time(time) if name and value > 0 else None
        if stamp is None:
            raise SettingsError(
                f"--split {text!r}: write FILE@TIME=FACTOR, such as B.csv@2021-07-09T03:00:00Z=100000"
            )
        found.setdefault(name, []).append((stamp, value))
    return found
