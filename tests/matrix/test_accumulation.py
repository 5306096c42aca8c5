"""The optimizer step is the unit: however it is cut into micro-batches or processes, the update is the same."""

import json

import pytest
from safetensors.torch import load_file

from mithridate.defenses.registry import methods
from tests.helpers import tiny
from tests.helpers.adapters import adapted, stored
from tests.helpers.processes import together
from tests.helpers.training import distance, run
from tests.matrix.row import rows_passed, thinned
from tests.matrix.rows import ROWS, cut_and_shared
from tests.matrix.two_processes import FILLED_UP, LOPSIDED, REALIGNED, realign, train_by_two

SHAPE = {"max_steps": 6, "rows": 24}
CUTS = {"4x2": (4, 2), "2x4": (2, 4), "1x8": (1, 8)}
"""Rows of a micro-batch × micro-batches of a step; 2x4 has several of both, and rows that are padded."""
STEPS, BATCH = 6, 8
TRAININGS = cut_and_shared()
EDGES = ["antibody_alignment", "antibody_tuning", "panacea_tuning", "safety_mixing", "sbr", "t_vaccine"]
"""Trained at every commit at the edges where a process lacks rows: every kind of stream."""


def _cut(rows, micro_batches):
    return {"per_device_train_batch_size": rows, "gradient_accumulation_steps": micro_batches}


def _whole(name):
    return run(*TRAININGS[name], **SHAPE, **_cut(8, 1))


@pytest.mark.parametrize("cut", thinned(CUTS, ["2x4"]))
@pytest.mark.parametrize("name", TRAININGS)
def test_accumulation_changes_nothing(name, cut):
    whole, pieces = _whole(name), run(*TRAININGS[name], **SHAPE, **_cut(*CUTS[cut]))
    assert distance(whole.weights, pieces.weights) <= 2e-5
    for one, other in zip(whole.logs, pieces.logs, strict=True):
        for figure in one:
            assert one[figure] == pytest.approx(other[figure], abs=2e-4), figure
    if whole.trainer.row_weights is not None:
        mine, theirs = whole.trainer.row_weights, pieces.trainer.row_weights
        assert mine.times.tolist() == theirs.times.tolist()
        assert mine.sums.tolist() == pytest.approx(theirs.sums.tolist(), abs=2e-5)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """All methods trained by two real processes, in one launch."""
    return _launched(tmp_path_factory.mktemp("two"), list(TRAININGS), EDGES)


@pytest.fixture(scope="module")
def other_edges(tmp_path_factory):
    return _launched(tmp_path_factory.mktemp("edges"), [], [name for name in TRAININGS if name not in EDGES])


def _launched(folder, names, edges):
    together(2, train_by_two, folder, SHAPE | _cut(4, 1), names, edges)
    return folder


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_equal_one(name, two_processes):
    report = json.loads((two_processes / f"{name}.json").read_text())
    assert report["world_sizes"] == [2, 2], "the launcher ran fewer processes than asked"
    assert report["rank_spread"] == 0, "the processes ended with different weights"
    whole, (method, settings) = _whole(name), TRAININGS[name]
    expected = rows_passed(methods()[method].cls(**settings), ROWS[method], settings, STEPS, BATCH)
    assert tuple(report["passes"]) == expected, "the processes did not share the work"
    assert distance(whole.weights, load_file(two_processes / f"{name}.safetensors")) <= 1e-5
    for one, other in zip(whole.logs, report["logs"], strict=True):
        for figure in one:
            assert one[figure] == pytest.approx(other[figure], abs=1e-4), figure
    if whole.trainer.row_weights is not None:
        assert report["row_times"] == whole.trainer.row_weights.times.tolist()
        assert report["row_sums"] == pytest.approx(whole.trainer.row_weights.sums.tolist(), abs=1e-5)


@pytest.mark.parametrize("name", REALIGNED)
def test_two_processes_realign_as_one(name, two_processes):
    report = json.loads((two_processes / f"realign-{name}.json").read_text())
    assert report["rank_spread"] == 0, "the processes ended with different weights"
    model = adapted(tiny.model())
    before = {key: value.clone() for key, value in stored(model).items()}
    repaired = realign(model, REALIGNED[name])
    moved = distance(before, stored(model))
    assert distance(stored(model), load_file(two_processes / f"realign-{name}.safetensors")) <= 1e-5 < moved
    assert repaired.rows_trained == report["rows_trained"]
    assert report["chosen"] == (None if repaired.dose_curve is None else repaired.dose_curve.chosen)


def _at_the_edges(names):
    return [name if name in EDGES else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture
def edge(name, request):
    """The folder with a method's training at the edges."""
    return request.getfixturevalue("two_processes" if name in EDGES else "other_edges")


@pytest.mark.parametrize("name", _at_the_edges(TRAININGS))
def test_rows_that_fill_the_last_batch_of_two_processes_up_are_not_trained_on(name, edge):
    whole = run(*TRAININGS[name], **FILLED_UP, per_device_train_batch_size=4)
    assert distance(whole.weights, load_file(edge / f"{name}-filled-up.safetensors")) <= 1e-5
    report = json.loads((edge / f"{name}-filled-up.json").read_text())
    for one, other in zip(whole.logs, report["logs"], strict=True):
        for figure in one:
            assert one[figure] == pytest.approx(other[figure], abs=1e-4), figure
    if whole.trainer.row_weights is not None:
        assert report["times"] == whole.trainer.row_weights.times.tolist() == [2] * FILLED_UP["rows"]


@pytest.mark.parametrize(
    "name", _at_the_edges(n for n, (method, _) in TRAININGS.items() if "harmful" in methods()[method].streams)
)
def test_a_process_without_a_row_of_a_stream_changes_nothing(name, edge):
    method, settings = TRAININGS[name]
    shape = LOPSIDED | {"per_device_train_batch_size": 2 * LOPSIDED["per_device_train_batch_size"]}
    whole = run(method, settings, **shape)
    assert distance(whole.weights, load_file(edge / f"{name}-lopsided.safetensors")) <= 1e-5
