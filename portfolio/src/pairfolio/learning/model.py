"""A model: the networks of one block of time, one a seed, with all that is needed to use them later.

Trained here for every fold of a backtest and for `train`; decided here for every tested bar and for `apply`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from pydantic import BaseModel

from pairfolio.config import Settings
from pairfolio.data.pair import Pair
from pairfolio.learning.features import Scaling, fit_scaling, pair_features, warm_up
from pairfolio.learning.networks import Allocator
from pairfolio.learning.training import Sample, Trained, decide, train

# Networks always see this many windows at once, each bar at the place its time gives it: sums inside a matrix
# product may round differently with another number of rows, and then two calls would not equal one.
CHUNK = 64


class Block(NamedTuple):
    """Decisions (numbers of bars) that a model is made from."""

    training: range
    validation: range


class SeedRecord(BaseModel):
    """How the network of one seed came about; epoch 0 is the untrained one, which holds the anchor weight."""

    seed: int
    minimum_variance_weight: float
    epoch: int
    epochs_run: int
    validation_sharpe: float


class Model(NamedTuple):
    """Networks and the scaling of their features.

    Attributes:
        networks: One for each seed.
        scaling: Of the training block.
        settings: They were trained with.
        seeds: How each came about.
    """

    networks: tuple[Allocator, ...]
    scaling: Scaling
    settings: Settings
    seeds: tuple[SeedRecord, ...]


def first_decision(settings: Settings) -> int:
    """Bars needed before the first one that a weight can be decided at."""
    return warm_up(settings.features) + settings.network.window - 1


def fit(
    pair: Pair, block: Block, settings: Settings, number: int = 0, progress: Callable[[], None] = lambda: None
) -> Model:
    """Train every seed on one block.

    Args:
        pair: The candles.
        block: Decisions to train and validate on.
        settings: Of the whole run.
        number: Of the block; each has seeds of its own, the same for each setting compared.
        progress: Called after each network.
    """
    features = pair_features(pair, settings.features)
    window = settings.network.window
    scaling = fit_scaling(features, slice(block.training[0] - window + 1, block.training[-1] + 1))
    windows = scaled_windows(features, scaling, window)
    returns = torch.from_numpy(pair.returns).float()
    training, validation = (sample(windows, returns, part) for part in block)
    networks, seeds = [], []
    for seed in settings.seeds:
        trained = train(training, validation, settings, seed=100_003 * seed + number)
        networks.append(trained.network)
        seeds.append(_seed_record(seed, trained))
        progress()
    return Model(tuple(networks), scaling, settings, tuple(seeds))


def _seed_record(seed: int, trained: Trained) -> SeedRecord:
    return SeedRecord(
        seed=seed,
        minimum_variance_weight=trained.moments.minimum_variance_weight,
        epoch=trained.epoch,
        epochs_run=len(trained.validation) - 1,
        validation_sharpe=trained.validation[trained.epoch],
    )


def decide_bars(model: Model, pair: Pair, decisions: range) -> np.ndarray:
    """Weight of A that each seed's network decides at the close of each bar, shape (seeds, decisions).

    The result for a bar depends on the candles up to it and on nothing else, to the last bit: not on where
    the pair begins, not on the other bars decided in the same call.
    """
    features, window = pair_features(pair, model.settings.features), model.settings.network.window
    shift = window - 1
    windows = scaled_windows(features, model.scaling, window)[
        decisions[0] - shift : decisions[-1] + 1 - shift
    ]
    slots = pair.slots[decisions[0] : decisions[-1] + 1]
    weights = np.empty((len(model.networks), len(decisions)))
    for chunk in np.unique(slots // CHUNK):
        here = np.flatnonzero(slots // CHUNK == chunk)
        places = torch.from_numpy(slots[here] % CHUNK)
        batch = torch.zeros(CHUNK, *windows.shape[1:])
        batch[places] = windows[torch.from_numpy(here)]
        for row, network in enumerate(model.networks):
            weights[row, here] = decide(network, batch)[places].double().numpy()
    return weights


def scaled_windows(features: np.ndarray, scaling: Scaling, window: int) -> torch.Tensor:
    """Scaled window ending at each bar, shape (bars − window + 1, window, features)."""
    scaled = torch.from_numpy(scaling.apply(features)).float()
    return scaled.unfold(0, window, 1).transpose(1, 2)


def sample(windows: torch.Tensor, returns: torch.Tensor, part: range) -> Sample:
    """Windows that end at each decision of a part, and the returns after them."""
    shift = windows.shape[1] - 1
    return Sample(
        windows[part[0] - shift : part[-1] + 1 - shift].contiguous(), returns[part[0] : part[-1] + 1]
    )
