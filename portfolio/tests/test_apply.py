"""A saved model on new bars: the weights of the backtest bit for bit, and every misuse refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pairfolio.apply import Holding, apply_model, as_csv, read_holding
from pairfolio.config import Settings, override
from pairfolio.data.candles import Candles
from pairfolio.data.pair import Pair, join
from pairfolio.data.resample import resample
from pairfolio.data.synthetic import synthetic_pair
from pairfolio.errors import DataError, ModelError, SettingsError
from pairfolio.evaluation.ledger import settle
from pairfolio.learning.model import first_decision
from pairfolio.learning.walkforward import make_folds, walk_forward
from pairfolio.modelfile import SavedModel

HEAD = "open_time,weight,held,turnover,model\n"
Save = Callable[..., SavedModel]
Cut = Callable[..., Pair]


@pytest.mark.parametrize("kind", ["lstm", "gru", "tcn", "tabl", "mlp"])
def test_the_weights_are_those_of_the_backtest(
    save: Save, cut: Cut, small_pair: Pair, tiny: Settings, kind: str
) -> None:
    """Every fold, applied to a file that begins with the bars needed to warm up and no earlier."""
    settings = override(tiny, {"network.kind": kind})
    walk, place = walk_forward(small_pair, settings), 0
    for number, fold in enumerate(make_folds(small_pair, settings)):
        saved = save(small_pair, settings, number, name=f"fold{number}")
        new = cut(small_pair, fold.test[0] - first_decision(settings), fold.test[-1] + 1)
        applied = apply_model(saved, new)
        expected = walk.weights[:, place : place + len(fold.test)]
        assert applied.times[0] == small_pair.times[fold.test[0]]
        assert np.array_equal(applied.seeds, expected)
        assert np.array_equal(applied.weights, expected.mean(axis=0))
        place += len(fold.test)
    assert place == walk.weights.shape[1]


def test_the_weights_do_not_depend_on_where_a_file_begins_or_ends(
    save: Save, cut: Cut, small_pair: Pair, tiny: Settings
) -> None:
    saved, begin = (
        save(small_pair, override(tiny, {"network.kind": "lstm"})),
        pd.Timestamp("2030-01-20", tz="UTC"),
    )
    whole = apply_model(saved, small_pair, start=begin)
    for start, stop in ((0, 130), (50, 131), (90, 180), (105, 117)):
        part = apply_model(saved, cut(small_pair, start, stop), start=begin)
        assert np.array_equal(part.seeds, whole.seeds[:, : len(part.times)])


def test_two_calls_give_what_one_gives(
    save: Save, cut: Cut, small_pair: Pair, tiny: Settings, tmp_path: Path
) -> None:
    saved, start = save(small_pair, tiny), make_folds(small_pair, tiny)[0].test[0]
    whole = as_csv(apply_model(saved, small_pair, start=small_pair.times[start]), saved)
    first = as_csv(apply_model(saved, cut(small_pair, 0, start + 20), start=small_pair.times[start]), saved)
    (tmp_path / "first.csv").write_text(first)
    held = read_holding(tmp_path / "first.csv")
    second = as_csv(apply_model(saved, cut(small_pair, 60), after=held), saved)
    assert first + "".join(second.splitlines(keepends=True)[1:]) == whole


def test_trades_are_those_the_backtest_pays_for(save: Save, small_pair: Pair, tiny: Settings) -> None:
    saved, start = save(small_pair, tiny), make_folds(small_pair, tiny)[0].test[0]
    applied = apply_model(saved, small_pair, start=small_pair.times[start])
    ledger = settle(applied.weights[:-1], small_pair.returns[start:], tiny.loss.fee)
    assert np.array_equal(applied.turnover[:-1], ledger.turnover)
    assert np.isnan(applied.held[0])
    assert applied.turnover[0] == 1


def test_bars_the_model_has_seen_are_refused(save: Save, cut: Cut, small_pair: Pair, tiny: Settings) -> None:
    saved = save(small_pair, tiny)
    last = list(small_pair.times).index(pd.Timestamp(saved.record.last_bar))
    with pytest.raises(ModelError, match=r"were used to train the model.* --from .* --allow-overlap"):
        apply_model(saved, small_pair)
    with pytest.raises(ModelError, match="were used to train"):
        apply_model(saved, small_pair, start=small_pair.times[last])
    # Bars from before the training are no test either: the model knows what came after them.
    with pytest.raises(ModelError, match="or lie before those"):
        apply_model(saved, cut(small_pair, 0, 40), other_assets=True)
    assert (
        apply_model(saved, small_pair, start=small_pair.times[last + 1]).times[0]
        == small_pair.times[last + 1]
    )
    assert len(apply_model(saved, small_pair, allow_overlap=True).times) == 180 - first_decision(tiny)


def test_bars_to_warm_up_are_asked_for(save: Save, cut: Cut, small_pair: Pair, tiny: Settings) -> None:
    """A file that begins the day after training ends gives no weight before it has warmed up."""
    saved = save(small_pair, tiny)
    last = list(small_pair.times).index(pd.Timestamp(saved.record.last_bar))
    new = cut(small_pair, last + 1)
    needed = first_decision(tiny)
    assert apply_model(saved, new).times[0] == new.times[needed]
    with pytest.raises(SettingsError, match=f"0 of .* {needed} are needed before it, to warm up"):
        apply_model(saved, new, start=new.times[0])
    with pytest.raises(SettingsError, match="to warm up"):
        apply_model(saved, cut(small_pair, last + 1, last + 1 + needed))


def test_another_interval_is_refused(save: Save, small_pair: Pair, tiny: Settings) -> None:
    saved = save(small_pair, tiny)
    longer = [
        resample(Candles(name, frame, small_pair.interval), pd.Timedelta("8h"))
        for name, frame in zip((*small_pair.names, "SPOT"), small_pair.frames, strict=True)
    ]
    with pytest.raises(ModelError, match=r"trained on bars of 4h, these are of 8h; .* --interval 4h"):
        apply_model(saved, join(longer))


def test_other_assets_are_refused(save: Save, cut: Cut, small_pair: Pair, tiny: Settings) -> None:
    saved, a, b = save(small_pair, tiny), *small_pair.names
    last = list(small_pair.times).index(pd.Timestamp(saved.record.last_bar))
    begin = small_pair.times[last + 1]
    other = synthetic_pair(180, seed=4)
    swapped = [
        Candles(name, frame, small_pair.interval)
        for name, frame in zip(
            (a, b, "SPOT"), (small_pair.frames[1], small_pair.frames[0], small_pair.frames[2]), strict=True
        )
    ]
    for wrong in (other, join(swapped)):
        with pytest.raises(ModelError, match="the prices moved otherwise than in the training data"):
            apply_model(saved, wrong, start=begin)
        assert len(apply_model(saved, wrong, start=begin, other_assets=True).times) > 0
    with pytest.raises(ModelError, match="trained with the underlying"):
        apply_model(saved, join(swapped[:2]), start=begin)
    later = cut(small_pair, last + 1, names=("NEW-A", "NEW-B", "SPOT"))
    with pytest.raises(ModelError, match=r"nothing shows that NEW-A and NEW-B are .* reach back to"):
        apply_model(saved, later)
    assert "by file name alone" in apply_model(saved, cut(small_pair, last + 1)).notes[0]


def test_a_split_adjusted_since_is_the_same_asset(save: Save, small_pair: Pair, tiny: Settings) -> None:
    saved = save(small_pair, tiny)
    frames = [frame.copy() for frame in small_pair.frames]
    frames[1][["open", "high", "low", "close"]] *= 1e5
    scaled = join([Candles(f"new{i}", frame, small_pair.interval) for i, frame in enumerate(frames)])
    assert apply_model(saved, scaled, start=small_pair.times[150]).notes == []


def test_gaps_are_named(save: Save, small_pair: Pair, tiny: Settings) -> None:
    saved = save(small_pair, tiny)
    frames = [frame.drop(frame.index[150:153]) for frame in small_pair.frames]
    gappy = join([Candles(f"new{i}", frame, small_pair.interval) for i, frame in enumerate(frames)])
    applied = apply_model(saved, gappy, start=small_pair.times[140])
    assert applied.notes[0].startswith("3 bars missing from")
    assert len(applied.times) == 180 - 140 - 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "row 0: no weights"),
        ("open_time,weight\n2030-01-20T00:00:00Z,0.5\n", "row 2: no weights"),
        ("open_time,weight,held,turnover,model\n2030-01-20T00:00:00Z,1.5,,1.0,abc\n", "row 2: no weights"),
        (
            "open_time,weight,held,turnover,model\n2030-01-20T00:00:00Z,0.5,,1.0,abc\n2030-01-2",
            "row 3: no weights",
        ),
    ],
)
def test_weights_to_go_on_from_are_checked(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "w.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_holding(tmp_path / "w.csv")


def test_a_bar_to_go_on_from_must_be_there(save: Save, small_pair: Pair, tiny: Settings) -> None:
    saved = save(small_pair, tiny)
    with pytest.raises(DataError, match="is not among the candles"):
        apply_model(saved, small_pair, after=Holding(small_pair.times[150] + pd.Timedelta("1h"), 0.5))
    with pytest.raises(DataError, match="no candle comes after"):
        apply_model(saved, small_pair, after=Holding(small_pair.times[-1], 0.5))
