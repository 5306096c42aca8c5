"""Walk forward: train, validate, test, roll on; nothing of a test span is seen before it is traded."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from pairfolio.config import Settings
from pairfolio.data.findings import stamp
from pairfolio.data.pair import Pair
from pairfolio.errors import SettingsError
from pairfolio.learning.model import Block, SeedRecord, decide_bars, first_decision, fit


class Fold(NamedTuple):
    """Decisions (numbers of bars) for each purpose."""

    training: range
    validation: range
    test: range

    @property
    def block(self) -> Block:
        """What its model is made from."""
        return Block(self.training, self.validation)


class FoldRecord(SeedRecord):
    """What one network of one fold was."""

    fold: int
    first_test: str


class Walk(NamedTuple):
    """Weights of A on every tested decision.

    Attributes:
        decisions: Bars at whose close a weight was decided, consecutive.
        weights: One row a seed, shape (seeds, decisions).
        records: One for each fold and seed.
        static: Minimum-variance weight of the first training block.
    """

    decisions: range
    weights: np.ndarray
    records: list[FoldRecord]
    static: float


def bars_in(days: float, interval: pd.Timedelta) -> int:
    """Bars in a number of days, at least one."""
    return max(1, round(days * float(pd.Timedelta(days=1) / interval)))


def make_folds(pair: Pair, settings: Settings, first_test: int | None = None) -> list[Fold]:
    """Folds whose tests follow each other without a hole; the last may be shorter.

    A window of bars is purged between the parts, so that no window reaches into the part before.

    Args:
        pair: The candles.
        settings: Of the whole run.
        first_test: First bar tested; by default the first that the data before it can train for.

    Raises:
        SettingsError: If the data are too short for one fold.
    """
    n_test = bars_in(settings.walk.test_days, pair.interval)
    earliest = block_bars(pair, settings)
    start = earliest if first_test is None else first_test
    # The last bar has no next return to earn.
    end = len(pair.times) - 1
    if start >= end:
        raise SettingsError(
            f"{len(pair.times)} common bars are too few: {start + 2} are needed to train, validate and test "
            "once; give a longer range, or lower --train-days and --validation-days"
        )
    if start < earliest:
        raise SettingsError(
            f"{start} common bars lie before the first test at {pair.times[start].isoformat()}; {earliest} "
            "are needed to train and validate; test later, or lower --train-days and --validation-days"
        )
    return [
        Fold(*block_before(test, pair, settings), range(test, min(test + n_test, end)))
        for test in range(start, end, n_test)
    ]


def block_bars(pair: Pair, settings: Settings) -> int:
    """Bars needed before a test: warm-up, training, validation, and the purge after each of the two."""
    walk = settings.walk
    learnt = bars_in(walk.train_days, pair.interval) + bars_in(walk.validation_days, pair.interval)
    return first_decision(settings) + learnt + 2 * settings.network.window


def block_before(test: int, pair: Pair, settings: Settings) -> Block:
    """Training and validation before a test that begins at bar `test`."""
    purge = settings.network.window
    validation = test - purge - bars_in(settings.walk.validation_days, pair.interval)
    training = validation - purge - bars_in(settings.walk.train_days, pair.interval)
    return Block(range(training, validation - purge), range(validation, test - purge))


def last_block(pair: Pair, settings: Settings) -> Block:
    """The latest block the data hold: its last return ends at the last bar.

    Raises:
        SettingsError: If the data are too short.
    """
    bars, needed = len(pair.times), block_bars(pair, settings) - settings.network.window + 1
    if bars < needed:
        raise SettingsError(
            f"{bars} common bars are too few: {needed} are needed to train and validate once; give a longer "
            "range, or lower --train-days and --validation-days"
        )
    return block_before(bars - 1 + settings.network.window, pair, settings)


def fold_block(pair: Pair, settings: Settings, number: int) -> Block:
    """What the model of one fold of a backtest is made from.

    Raises:
        SettingsError: If there is no such fold.
    """
    folds = make_folds(pair, settings)
    if number >= len(folds):
        raise SettingsError(f"--fold {number}: the data give folds 0 to {len(folds) - 1}")
    return folds[number].block


def walk_forward(
    pair: Pair,
    settings: Settings,
    progress: Callable[[int, int], None] = lambda done, of: None,
    first_test: int | None = None,
) -> Walk:
    """Train and test every fold with every seed.

    Args:
        pair: The candles.
        settings: Of the whole run.
        progress: Called with the networks trained so far and in all.
        first_test: First bar decided; by default the first that the data before it can train for.

    Raises:
        SettingsError: If the data are too short for one fold.
    """
    folds = make_folds(pair, settings, first_test)
    total, done = len(folds) * len(settings.seeds), 0

    def count() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    parts, records, static = [], [], 0.5
    for number, fold in enumerate(folds):
        model = fit(pair, fold.block, settings, number, count)
        parts.append(decide_bars(model, pair, fold.test))
        first = stamp(pair.times[fold.test[0]])
        records += [FoldRecord(fold=number, first_test=first, **one.model_dump()) for one in model.seeds]
        if number == 0:
            static = records[0].minimum_variance_weight
    decisions = range(folds[0].test[0], folds[-1].test[-1] + 1)
    return Walk(decisions, np.concatenate(parts, axis=1), records, static)
