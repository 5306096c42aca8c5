"""A saved model on new bars: what it may decide, what it decides, and what has to be traded for it.

The weight that a network decides at the close of a bar depends on the bars up to it alone. What must be
traded also depends on the weight held from the bar before, after drift; `Holding` carries it between calls.
"""

import csv
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pairfolio.data.findings import stamp
from pairfolio.data.pair import Pair
from pairfolio.errors import DataError, ModelError, SettingsError
from pairfolio.evaluation.ledger import drift
from pairfolio.interval import interval_name
from pairfolio.learning.model import decide_bars, first_decision
from pairfolio.modelfile import SavedModel

COLUMNS = ("open_time", "weight", "held", "turnover", "model")
HASH_LETTERS = 12


class Holding(NamedTuple):
    """The weight of A taken at the close of a bar; it drifts with the prices from then on."""

    time: pd.Timestamp
    weight: float


class Applied(NamedTuple):
    """What a model says of new bars.

    Attributes:
        times: Opening of each bar decided.
        weights: Weight of A to take at its close, the mean of the seeds.
        seeds: The same for each seed alone, shape (seeds, bars).
        held: Weight of A still held at that close before the trade; nan where all is cash.
        turnover: Sum of absolute weight changes, both legs; 1 to buy in.
        notes: What the user should know.
    """

    times: pd.DatetimeIndex
    weights: np.ndarray
    seeds: np.ndarray
    held: np.ndarray
    turnover: np.ndarray
    notes: list[str]


def apply_model(
    saved: SavedModel,
    pair: Pair,
    *,
    start: pd.Timestamp | None = None,
    after: Holding | None = None,
    allow_overlap: bool = False,
    other_assets: bool = False,
) -> Applied:
    """Decide every bar that has enough bars before it.

    Args:
        saved: The model.
        pair: Candles, some of them before the first bar decided.
        start: First bar decided; earlier ones only warm up.
        after: Where an earlier call ended; the bar after it is the first decided.
        allow_overlap: Decide bars that the model was trained on, or that lie before those.
        other_assets: Do not ask for proof that these are the assets it was trained on.

    Raises:
        ModelError: If the model does not fit the bars, or has seen some that are to be decided.
        DataError: If the bar of `after` is not among the candles.
        SettingsError: If bars before the first one decided are missing.
    """
    notes = check_fit(saved, pair, other_assets)
    if after is not None:
        start = _bar_after(pair, after)
    decisions = decidable(pair, [saved], start, allow_overlap)
    seeds = decide_bars(saved.model, pair, decisions)
    weights = seeds.mean(axis=0)
    held = _held(pair, decisions, weights, after)
    turnover = np.where(np.isnan(held), 1.0, 2 * np.abs(weights - held))
    times = pair.times[decisions[0] : decisions[-1] + 1]
    notes += [
        f"{gap.missing} bars missing from {gap.last} to {gap.next}; the step across them counts as one"
        for gap in pair.findings.gaps
    ]
    set_aside = saved.record.settings.final_start
    if set_aside is not None and times[-1] >= set_aside:
        notes.append(
            f"the model's settings set aside the bars from {stamp(set_aside)} on for one final test; "
            "weights say nothing of what they earned"
        )
    return Applied(times, weights, seeds, held, turnover, notes)


def check_fit(saved: SavedModel, pair: Pair, other_assets: bool = False) -> list[str]:
    """Refuse another interval, number of assets, or other assets; return what could not be checked.

    Raises:
        ModelError: If the model does not fit.
    """
    record, interval = saved.record, interval_name(pair.interval)
    if interval != record.interval:
        raise ModelError(
            f"the model was trained on bars of {record.interval}, these are of {interval}; give such bars, "
            f"or join shorter ones with --interval {record.interval}"
        )
    if len(pair.frames) != record.assets:
        said = ("with", "give it with --spot") if record.assets == 3 else ("without", "leave it out")
        raise ModelError(f"the model was trained {said[0]} the underlying; {said[1]}")
    return [] if other_assets else _same_assets(saved, pair)


def _same_assets(saved: SavedModel, pair: Pair) -> list[str]:
    """Compare moves of the closes on shared bars; they survive splits and changes of unit."""
    shared = saved.seen.index.intersection(pair.times)
    if len(shared) < 2:
        if pair.names == saved.record.pair:
            return ["no bar is shared with the training data, so the assets were told by file name alone"]
        raise ModelError(
            f"nothing shows that {' and '.join(pair.names)} are {' and '.join(saved.record.pair)}, which the "
            f"model was trained on; give bars that reach back to {saved.record.last_bar} and one before, or "
            "say --other-assets"
        )
    here = np.column_stack([frame["close"].loc[shared].to_numpy() for frame in pair.frames])
    there = saved.seen.loc[shared].to_numpy()
    differ = np.flatnonzero(~np.isclose(here / here[0], there / there[0], rtol=1e-6, atol=0).all(axis=1))
    if len(differ):
        raise ModelError(
            f"at {stamp(shared[differ[0]])} the prices moved otherwise than in the training data: other "
            "assets, another order of A and B, or a split adjusted in one and not in the other; say "
            "--other-assets if so meant"
        )
    return []


def decidable(pair: Pair, models: list[SavedModel], start: pd.Timestamp | None, allow_overlap: bool) -> range:
    """Bars that all the models may decide.

    Args:
        pair: The candles.
        models: Already known to fit them.
        start: First bar decided; None for the first with enough bars before it.
        allow_overlap: Whether bars that a model has seen may be decided.

    Raises:
        SettingsError: If bars before the first are missing, or none are left.
        ModelError: If a model has seen one of the bars.
    """
    needed = max(first_decision(saved.record.settings) for saved in models)
    first = needed if start is None else int(np.sum(pair.times < start))
    if first < needed or first >= len(pair.times):
        raise SettingsError(
            f"{min(first, len(pair.times))} of {len(pair.times)} common bars lie before the first to be "
            f"decided; {needed} are needed before it, to warm up; give a longer range"
        )
    for saved in models:
        last = pd.Timestamp(saved.record.last_bar)
        if pair.times[first] <= last and not allow_overlap:
            raise ModelError(
                f"the bars from {stamp(pair.times[first])} to {saved.record.last_bar} were used to train the "
                "model, or lie before those; decide later ones with "
                f"--from {stamp(last + pair.interval)}, or say --allow-overlap"
            )
    return range(first, len(pair.times))


def _bar_after(pair: Pair, after: Holding) -> pd.Timestamp:
    place = int(np.sum(pair.times <= after.time))
    if place == 0 or pair.times[place - 1] != after.time:
        raise DataError(
            f"the bar {stamp(after.time)}, at which the earlier weights end, is not among the candles; give "
            "candles that hold it"
        )
    if place == len(pair.times):
        raise DataError(f"no candle comes after {stamp(after.time)}, at which the earlier weights end")
    return pair.times[place]


def _held(pair: Pair, decisions: range, weights: np.ndarray, after: Holding | None) -> np.ndarray:
    """Weight held at each close before its trade: the last one taken, after drift."""
    before = np.nan if after is None else after.weight
    taken = np.concatenate([[before], weights[:-1]])
    return drift(taken, pair.returns[decisions[0] - 1 : decisions[-1]])


def as_csv(applied: Applied, saved: SavedModel) -> str:
    """One row a bar; numbers come back bit for bit."""
    columns = {
        "weight": applied.weights,
        "held": applied.held,
        "turnover": applied.turnover,
        "model": saved.sha256[:HASH_LETTERS],
    }
    index = pd.Index([stamp(time) for time in applied.times], name="open_time")
    return str(pd.DataFrame(columns, index=index).to_csv(lineterminator="\n"))


def read_holding(path: Path) -> Holding:
    """The last row of weights written before.

    Raises:
        DataError: If the file is missing or is no such file.
    """
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); give weights written by pairfolio apply"
        ) from error
    wrong = f"{path}, row {len(rows)}: no weights of pairfolio apply; give the file of the call before, whole"
    if len(rows) < 2 or tuple(rows[0]) != COLUMNS or len(rows[-1]) != len(COLUMNS):
        raise DataError(wrong)
    time = pd.to_datetime(rows[-1][0], utc=True, format="ISO8601", errors="coerce")
    weight = pd.to_numeric(rows[-1][1], errors="coerce")
    if pd.isna(time) or not 0 <= weight <= 1:
        raise DataError(wrong)
    return Holding(pd.Timestamp(time), float(weight))
