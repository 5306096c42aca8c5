"""Walk forward: train, validate, test, roll on; nothing of a test span is seen before it is traded."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel

from pairfolio.config import Settings
from pairfolio.data.pair import Pair
from pairfolio.errors import SettingsError
from pairfolio.learning.features import pair_features, standardize, warm_up
from pairfolio.learning.training import Sample, Trained, decide, train


class Fold(NamedTuple):
    """Decisions (numbers of bars) for each purpose."""

    training: range
    validation: range
    test: range


class FoldRecord(BaseModel):
    """What one network of one fold was."""

    fold: int
    seed: int
    first_test: str
    minimum_variance_weight: float
    epoch: int
    epochs_run: int
    validation_sharpe: float


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


def make_folds(pair: Pair, settings: Settings) -> list[Fold]:
    """Folds whose tests follow each other without a hole; the last may be shorter.

    A window of bars is purged between the parts, so that no window reaches into the part before.

    Raises:
        SettingsError: If the data are too short for one fold.
    """
    walk, purge = settings.walk, settings.network.window
    spans = [walk.train_days, walk.validation_days, walk.test_days]
    n_train, n_validation, n_test = (bars_in(days, pair.interval) for days in spans)
    first = warm_up(settings.features) + settings.network.window - 1
    start = first + n_train + n_validation + 2 * purge
    # The last bar has no next return to earn.
    end = len(pair.times) - 1
    if start >= end:
        raise SettingsError(
            f"{len(pair.times)} common bars are too few: {start + 2} are needed to train, validate and test "
            "once; give a longer range, or lower --train-days and --validation-days"
        )
    folds = []
    for test in range(start, end, n_test):
        validation = test - purge - n_validation
        training = validation - purge - n_train
        folds.append(
            Fold(
                range(training, training + n_train),
                range(validation, validation + n_validation),
                range(test, min(test + n_test, end)),
            )
        )
    return folds


def walk_forward(
    pair: Pair, settings: Settings, progress: Callable[[int, int], None] = lambda done, of: None
) -> Walk:
    """Train and test every fold with every seed.

    Args:
        pair: The candles.
        settings: Of the whole run.
        progress: Called with the networks trained so far and in all.

    Raises:
        SettingsError: If the data are too short for one fold.
    """
    folds = make_folds(pair, settings)
    features = pair_features(pair, settings.features)
    returns = torch.from_numpy(pair.returns).float()
    rows: list[list[np.ndarray]] = [[] for _ in settings.seeds]
    records, static = [], 0.5
    for number, fold in enumerate(folds):
        windows = fold_windows(features, fold, settings.network.window)
        samples = [sample(windows, returns, part) for part in fold]
        for place, seed in enumerate(settings.seeds):
            # A different seed for each fold, the same for each setting compared.
            trained = train(samples[0], samples[1], settings, seed=100_003 * seed + number)
            rows[place].append(decide(trained.network, samples[2].windows).double().numpy())
            records.append(_record(trained, number, seed, pair.times[fold.test[0]]))
            progress(len(records), len(folds) * len(settings.seeds))
        if number == 0:
            static = records[0].minimum_variance_weight
    weights = np.stack([np.concatenate(parts) for parts in rows])
    return Walk(range(folds[0].test[0], folds[-1].test[-1] + 1), weights, records, static)


def fold_windows(features: np.ndarray, fold: Fold, window: int) -> torch.Tensor:
    """Window ending at each bar, scaled by the training rows; (bars − window + 1, window, features)."""
    rows = slice(fold.training[0] - window + 1, fold.training[-1] + 1)
    scaled = torch.from_numpy(standardize(features, rows)).float()
    return scaled.unfold(0, window, 1).transpose(1, 2)


def sample(windows: torch.Tensor, returns: torch.Tensor, part: range) -> Sample:
    """Windows that end at each decision of a part, and the returns after them."""
    shift = windows.shape[1] - 1
    return Sample(
        windows[part[0] - shift : part[-1] + 1 - shift].contiguous(), returns[part[0] : part[-1] + 1]
    )


def _record(trained: Trained, fold: int, seed: int, first: pd.Timestamp) -> FoldRecord:
    return FoldRecord(
        fold=fold,
        seed=seed,
        first_test=first.strftime("%Y-%m-%dT%H:%M:%SZ"),
        minimum_variance_weight=trained.moments.minimum_variance_weight,
        epoch=trained.epoch,
        epochs_run=len(trained.validation) - 1,
        validation_sharpe=trained.validation[trained.epoch],
    )
