"""Saved models: whole, the same every time, and refused when anything in them changed."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pairfolio.config import Settings
from pairfolio.data.pair import Pair
from pairfolio.errors import ModelError
from pairfolio.learning.model import decide_bars, fit
from pairfolio.learning.walkforward import fold_block, last_block, make_folds
from pairfolio.modelfile import RECORD, TENSORS, SavedModel, load_model, save_model

Save = Callable[..., SavedModel]


@pytest.mark.parametrize("kind", ["lstm", "gru", "tcn", "tabl", "mlp"])
def test_a_model_comes_back_whole(save: Save, small_pair: Pair, tiny: Settings, kind: str) -> None:
    settings = tiny.model_copy(update={"network": tiny.network.model_copy(update={"kind": kind})})
    fold = make_folds(small_pair, settings)[1]
    before = decide_bars(fit(small_pair, fold.block, settings, 1), small_pair, fold.test)
    after = decide_bars(save(small_pair, settings, 1).model, small_pair, fold.test)
    assert np.array_equal(before, after)
    assert len(np.unique(before)) > len(fold.test) / 2


def test_the_record_says_what_the_model_is(save: Save, small_pair: Pair, tiny: Settings) -> None:
    saved, fold = save(small_pair, tiny), make_folds(small_pair, tiny)[0]
    record, times = saved.record, small_pair.times.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert (record.interval, record.assets, record.costs) == ("4h", 3, tiny.loss.fee)
    assert (record.training.first, record.validation.last) == (
        times[fold.training[0]],
        times[fold.validation[-1]],
    )
    # The last return of the validation ends one bar later.
    assert record.last_bar == times[fold.validation[-1] + 1]
    a, g, _, b = np.cov(small_pair.returns[fold.training[0] : fold.training[-1] + 1].T).ravel()
    assert record.minimum_variance_weight == pytest.approx((b - g) / (a + b - 2 * g), rel=1e-5)
    assert [one.seed for one in record.seeds] == list(tiny.seeds)
    assert record.settings == tiny
    assert record.features[0] == "A: return over 1"
    assert len(record.features) == 3 * (len(tiny.features.horizons) + 3)


def test_the_last_block_ends_with_the_data(small_pair: Pair, tiny: Settings) -> None:
    block = last_block(small_pair, tiny)
    assert block.validation[-1] + 1 == len(small_pair.times) - 1
    assert (len(block.training), len(block.validation)) == (60, 18)
    assert block.training[-1] + 1 < block.validation[0] - tiny.network.window + 1


def test_two_trainings_give_the_same_bytes(
    save: Save, small_pair: Pair, tiny: Settings, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        save(small_pair, tiny, name=name)
    save(small_pair, tiny.model_copy(update={"seeds": (0, 2)}), name="other")
    for file in (TENSORS, RECORD):
        one, two, other = ((tmp_path / name / file).read_bytes() for name in ("one", "two", "other"))
        assert one == two
        assert one != other


def put(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def flip(path: Path, place: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(bytes(raw))


Spoil = Callable[[Path], object]
FAULTS: dict[str, tuple[Spoil, str]] = {
    "a bit of a weight": (lambda folder: flip(folder / TENSORS, -1), "not the file the model was saved with"),
    "cut short": (lambda folder: os.truncate(folder / TENSORS, 900), "not the file the model was saved with"),
    "no tensors": (lambda folder: (folder / TENSORS).unlink(), "cannot be read"),
    "no record": (lambda folder: (folder / RECORD).unlink(), "cannot be read"),
    "record cut short": (lambda folder: os.truncate(folder / RECORD, 700), "is no JSON"),
    "another fee": (lambda folder: put(folder / RECORD, "0.00075", "0.0001"), "was altered"),
    "a later training": (
        lambda folder: put(folder / RECORD, 'last_bar": "20', 'last_bar": "19'),
        "was altered",
    ),
    "another hash": (lambda folder: put(folder / RECORD, '"sha256": "', '"sha256": "0'), "was altered"),
    "another file": (lambda folder: (folder / RECORD).write_text('{"model": 1}'), "holds no model"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_altered_models_are_refused(
    save: Save, small_pair: Pair, tiny: Settings, tmp_path: Path, fault: str
) -> None:
    save(small_pair, tiny)
    spoil, message = FAULTS[fault]
    spoil(tmp_path / "model")
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path / "model")


def test_tensors_of_another_model_are_refused(
    save: Save, small_pair: Pair, tiny: Settings, tmp_path: Path
) -> None:
    save(small_pair, tiny)
    save(small_pair, tiny.model_copy(update={"seeds": (5, 6)}), name="other")
    (tmp_path / "other" / TENSORS).rename(tmp_path / "model" / TENSORS)
    with pytest.raises(ModelError, match="not the file the model was saved with"):
        load_model(tmp_path / "model")


def test_a_model_is_never_written_over(save: Save, small_pair: Pair, tiny: Settings, tmp_path: Path) -> None:
    save(small_pair, tiny)
    before = (tmp_path / "model" / RECORD).read_bytes()
    with pytest.raises(ModelError, match="is there already"):
        save(small_pair, tiny)
    assert (tmp_path / "model" / RECORD).read_bytes() == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_save_leaves_nothing(
    save: Save,
    small_pair: Pair,
    tiny: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    calls = []

    def stop(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 2:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", stop)
        with pytest.raises(type(error)):
            save(small_pair, tiny)
    assert len(calls) == 2
    assert list(tmp_path.iterdir()) == []
    assert save(small_pair, tiny).record.pair == small_pair.names


def test_a_network_that_came_apart_is_not_saved(small_pair: Pair, tiny: Settings, tmp_path: Path) -> None:
    block = fold_block(small_pair, tiny, 0)
    model = fit(small_pair, block, tiny)
    with torch.no_grad():
        model.networks[1].head.bias[0] = float("nan")
    with pytest.raises(ModelError, match=r"seed\.1\.head\.bias is not finite"):
        save_model(tmp_path / "model", model, small_pair, block, 0, {})
    assert not (tmp_path / "model").exists()


def test_the_record_is_plain_json(save: Save, small_pair: Pair, tiny: Settings, tmp_path: Path) -> None:
    saved = save(small_pair, tiny)
    whole = json.loads((tmp_path / "model" / RECORD).read_text(encoding="utf-8"))
    assert whole["sha256"] == saved.sha256
    assert whole["model"]["settings"]["loss"]["fee"] == tiny.loss.fee
