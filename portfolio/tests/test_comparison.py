from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pairfolio.backtest import run_backtest
from pairfolio.comparison import compare
from pairfolio.config import Settings, override
from pairfolio.data.pair import Pair
from pairfolio.errors import ModelError, SettingsError
from pairfolio.evaluation.ledger import settle
from pairfolio.evaluation.metrics import measure
from pairfolio.learning.walkforward import make_folds, walk_forward
from pairfolio.modelfile import SavedModel

Save = Callable[..., SavedModel]
RULES = {
    "half_half",
    "static_minimum_variance",
    "rolling_minimum_variance",
    "rolling_equal_risk",
    "bought_once",
    "hold_a",
    "hold_b",
    "spot",
}


def test_models_and_rules_earn_what_the_backtest_says(save: Save, small_pair: Pair, tiny: Settings) -> None:
    """One fold over all tested bars is a backtest that never trains anew."""
    once = override(tiny, {"walk.test_days": 60.0, "rolling.refit_days": 60.0})
    run = run_backtest(small_pair, once)
    start = make_folds(small_pair, once)[0].test[0]
    models = {"a": save(small_pair, once, name="a")}
    found = compare(models, small_pair, start=small_pair.times[start])
    ours = {strategy.key: strategy for strategy in found.strategies}
    assert set(ours) == {"a", *RULES}
    assert ours["a"].metrics == run.results.strategy("network").metrics
    assert ours["a"].versus_half == run.results.strategy("network").versus_half
    for key in RULES:
        assert ours[key].metrics == run.results.strategy(key).metrics
    assert found.tested == run.results.tested


def test_several_models_stand_side_by_side(save: Save, small_pair: Pair, tiny: Settings) -> None:
    """Each on the same bars: those after the last training of all."""
    models = {
        "early": save(small_pair, tiny, 0, name="early"),
        "late": save(small_pair, override(tiny, {"network.kind": "tabl"}), 1, name="late"),
    }
    folds = make_folds(small_pair, tiny)
    with pytest.raises(ModelError, match="were used to train"):
        compare(models, small_pair, start=small_pair.times[folds[0].test[0]])
    start = folds[1].test[0]
    found = compare(models, small_pair, start=small_pair.times[start])
    assert [strategy.key for strategy in found.strategies][:2] == ["early", "late"]
    assert [model.network for model in found.models] == ["mlp", "tabl"]
    assert found.tested.bars == 179 - start
    walk = walk_forward(small_pair, tiny)
    part = slice(0, len(folds[1].test))
    own = walk.weights.mean(axis=0)[len(folds[0].test) :][part]
    tabl = walk_forward(small_pair, override(tiny, {"network.kind": "tabl"}))
    expected = tabl.weights.mean(axis=0)[len(folds[0].test) :][part]
    assert not np.array_equal(own, expected)
    stop = compare(
        {"late": models["late"]},
        _cut_after(small_pair, folds[1].test[-1] + 1),
        start=small_pair.times[start],
    )
    tested = small_pair.returns[start : folds[1].test[-1] + 1]
    assert stop.strategies[0].metrics == measure(settle(expected, tested, 0.00075), 2191.5)


def _cut_after(pair: Pair, bar: int) -> Pair:
    frames = tuple(frame.iloc[: bar + 1] for frame in pair.frames)
    return Pair(pair.names, pair.times[: bar + 1], frames, pair.interval, pair.findings)


def test_different_costs_must_be_settled(save: Save, small_pair: Pair, tiny: Settings) -> None:
    models = {
        "a": save(small_pair, tiny, name="a"),
        "b": save(small_pair, override(tiny, {"loss.fee": 0.002}), name="b"),
    }
    start = small_pair.times[make_folds(small_pair, tiny)[0].test[0]]
    with pytest.raises(SettingsError, match=r"different costs \(a 7\.5, b 20 bp\); name one with --fee-bps"):
        compare(models, small_pair, start=start)
    found = compare(models, small_pair, start=start, fee=0.002)
    assert found.notes == ["a: trained at 7.5 bp, traded here at 20 bp"]
    cheap = compare({"a": models["a"]}, small_pair, start=start)
    assert cheap.notes == []
    assert cheap.strategies[0].metrics.total_return > found.strategies[0].metrics.total_return


def test_bars_set_aside_are_not_compared_unseen(
    save: Save, small_pair: Pair, tiny: Settings, tmp_path: Path
) -> None:
    record = tmp_path / "record.jsonl"
    final = {"start": "2030-01-25", "record": str(record)}
    models = {"a": save(small_pair, override(tiny, {"final": final}), name="a")}
    start = small_pair.times[make_folds(small_pair, tiny)[0].test[0]]
    with pytest.raises(ModelError, match=r"a: its settings set aside the bars from 2030-01-25T00:00:00Z on"):
        compare(models, small_pair, start=start)
    assert not record.exists()
    for number in (1, 2):
        found = compare(models, small_pair, start=start, final=True)
        assert found.notes == [f"a: look {number} at the bars set aside from 2030-01-25T00:00:00Z on"]
    assert len(record.read_text().splitlines()) == 2
