from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pairfolio.config import Settings
from pairfolio.data.pair import Pair
from pairfolio.data.synthetic import synthetic_pair
from pairfolio.errors import SettingsError
from pairfolio.learning.features import CLIP, fit_scaling, pair_features, warm_up
from pairfolio.learning.model import sample, scaled_windows
from pairfolio.learning.walkforward import make_folds, walk_forward
from pairfolio.strategies.roster import rules

PAST = synthetic_pair(180, seed=3)


def change_future(pair: Pair, bar: int, seed: int) -> Pair:
    """Other candles after `bar`, the same up to it."""
    rng = np.random.default_rng(seed)
    frames = []
    for frame in pair.frames:
        values = frame.to_numpy().copy()
        values[bar + 1 :] *= np.exp(rng.normal(0, 0.5, size=(len(values) - bar - 1, 1)))
        frames.append(frame.copy().assign(**dict(zip(frame.columns, values.T, strict=True))))
    return replace(pair, frames=tuple(frames))


@given(bar=st.integers(95, 178), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_future_never_changes_a_past_weight(tiny: Settings, bar: int, seed: int) -> None:
    changed = change_future(PAST, bar, seed)
    assert not np.array_equal(PAST.returns, changed.returns)
    before, after = walk_forward(PAST, tiny), walk_forward(changed, tiny)
    known = bar - before.decisions[0] + 1
    assert np.array_equal(before.weights[:, :known], after.weights[:, :known])
    assert before.static == after.static


@given(bar=st.integers(95, 178), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_rule_to_compare_with_looks_ahead(tiny: Settings, bar: int, seed: int) -> None:
    walk, changed = walk_forward(PAST, tiny), change_future(PAST, bar, seed)
    known = bar - walk.decisions[0] + 1
    others = rules(changed, walk, tiny)
    for key, ledger in rules(PAST, walk, tiny).items():
        assert np.array_equal(ledger.weights[:known], others[key].weights[:known], equal_nan=True), key
        assert np.array_equal(ledger.net[: known - 1], others[key].net[: known - 1]), key


def test_the_present_does_change_the_weight(tiny: Settings) -> None:
    """The property above could not fail if weights ignored the candles."""
    bar = 150
    walks = [walk_forward(pair, tiny) for pair in (PAST, change_future(PAST, bar, 1))]
    place = bar + 1 - walks[0].decisions[0]
    assert not np.array_equal(walks[0].weights[:, place], walks[1].weights[:, place])


@pytest.mark.parametrize("kind", ["lstm", "gru", "tcn", "tabl"])
def test_no_kind_of_network_looks_ahead(tiny: Settings, kind: str) -> None:
    plan = tiny.model_copy(update={"network": tiny.network.model_copy(update={"kind": kind})})
    bar = 140
    walks = [walk_forward(pair, plan) for pair in (PAST, change_future(PAST, bar, 2))]
    known = bar - walks[0].decisions[0] + 1
    assert np.array_equal(walks[0].weights[:, :known], walks[1].weights[:, :known])
    assert not np.array_equal(walks[0].weights, walks[1].weights)


def test_features_end_at_their_own_bar(tiny: Settings) -> None:
    bar = 100
    before, after = (pair_features(pair, tiny.features) for pair in (PAST, change_future(PAST, bar, 1)))
    assert np.array_equal(before[: bar + 1], after[: bar + 1], equal_nan=True)
    assert not np.array_equal(before[bar + 1 :], after[bar + 1 :])
    first = warm_up(tiny.features)
    assert np.isfinite(before[first:]).all()
    assert np.isnan(before[first - 1]).any()


def test_features_of_a_known_bar(tiny: Settings) -> None:
    frame, row = PAST.frames[0], 50
    features = pair_features(PAST, tiny.features)[row, :5]
    bar, close = frame.iloc[row], frame["close"].to_numpy()
    volume = np.log1p(frame["volume"].to_numpy()[row - 3 : row + 1])
    expected = [
        np.log(close[50] / close[49]),
        np.log(close[50] / close[48]),
        np.log(bar["high"] / bar["low"]),
        (bar["close"] - bar["low"]) / (bar["high"] - bar["low"]),
        (volume[-1] - volume.mean()) / volume.std(),
    ]
    np.testing.assert_allclose(features, expected, rtol=1e-9)


def test_a_window_ends_at_its_decision_and_earns_the_next_return(tiny: Settings) -> None:
    fold = make_folds(PAST, tiny)[1]
    features = pair_features(PAST, tiny.features)
    scaling = fit_scaling(features, slice(fold.training[0] - 3, fold.training[-1] + 1))
    windows = scaled_windows(features, scaling, tiny.network.window)
    returns = torch.from_numpy(PAST.returns).float()
    scaled = scaling.apply(features)
    for part in fold[:3]:
        cut = sample(windows, returns, part)
        assert len(cut.windows) == len(cut.returns) == len(part)
        for place in (0, len(part) - 1):
            bar = part[place]
            np.testing.assert_allclose(cut.windows[place], scaled[bar - 3 : bar + 1], rtol=1e-6)
            closes = np.array([frame["close"].to_numpy()[bar : bar + 2] for frame in PAST.frames[:2]])
            np.testing.assert_allclose(cut.returns[place], closes[:, 1] / closes[:, 0] - 1, rtol=1e-4)


def test_scaling_uses_the_given_rows_only() -> None:
    values = np.random.default_rng(0).normal(3, 2, size=(100, 2))
    values[80:] += 1000
    scaled = fit_scaling(values, slice(0, 50)).apply(values)
    np.testing.assert_allclose(scaled[:50].mean(axis=0), 0, atol=1e-9)
    assert (scaled[80:] == CLIP).all()


def test_folds_are_purged_and_tests_follow_each_other(tiny: Settings) -> None:
    folds = make_folds(PAST, tiny)
    window = tiny.network.window
    assert folds[0].training[0] == warm_up(tiny.features) + window - 1
    assert folds[-1].test[-1] == len(PAST.times) - 2
    for fold in folds:
        assert (len(fold.training), len(fold.validation)) == (60, 18)
        # The return of the last decision ends before the first window of the next part begins.
        assert fold.training[-1] + 1 < fold.validation[0] - window + 1
        assert fold.validation[-1] + 1 < fold.test[0] - window + 1
    for fold, later in pairwise(folds):
        assert fold.test[-1] + 1 == later.test[0]


def test_too_few_bars_are_refused(tiny: Settings) -> None:
    enough = make_folds(PAST, tiny)[0].test[0] + 2
    assert len(make_folds(synthetic_pair(enough), tiny)) == 1
    with pytest.raises(SettingsError, match=f"{enough - 1} common bars are too few: {enough} are needed"):
        make_folds(synthetic_pair(enough - 1), tiny)


def test_records_tell_each_network(tiny: Settings) -> None:
    seen: list[tuple[int, int]] = []
    walk = walk_forward(PAST, tiny, lambda done, of: seen.append((done, of)))
    folds = len(make_folds(PAST, tiny))
    assert walk.weights.shape == (2, len(walk.decisions))
    assert [(record.fold, record.seed) for record in walk.records] == [
        (f, s) for f in range(folds) for s in (0, 1)
    ]
    assert seen[-1] == (2 * folds, 2 * folds)
    assert walk.static == walk.records[0].minimum_variance_weight
