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
SHARED = [*EDGES, "antibody-shared", "lisa", "repnoise", "safegrad", "salora", "tar"]
"""Trained by two processes at every commit: kept terms, phases, a loss over the step with hidden states, a projection,
a start of its own and an adversary's steps, beside the streams."""
REPAIRS = ["antibody", "auto"]
"""Realigned with at every commit: all streams and a displacement, and a search on which the processes must agree."""


def _cut(rows, micro_batches):
    return {"per_device_train_batch_size": rows, "gradient_accumulation_steps": micro_batches}


def _whole(name):
    return run(*TRAININGS[name], **SHAPE, **_cut(8, 1))


# `test_formula` cuts the steps of every method into micro-batches at every commit.
@pytest.mark.parametrize("cut", thinned(CUTS, ["2x4"]))
@pytest.mark.parametrize("name", thinned(TRAININGS, SHARED))
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
    """What is trained at every commit, by two real processes in one launch."""
    return _launched(tmp_path_factory.mktemp("two"), SHARED, EDGES, REPAIRS)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """All other trainings, likewise."""
    every = ((TRAININGS, SHARED), (TRAININGS, EDGES), (REALIGNED, REPAIRS))
    return _launched(
        tmp_path_factory.mktemp("others"), *([name for name in names if name not in quick] for names, quick in every)
    )


def _launched(folder, names, edges, repairs):
    together(2, train_by_two, folder, SHAPE | _cut(4, 1), names, edges, repairs)
    return folder


@pytest.mark.parametrize("name", thinned(TRAININGS, SHARED))
def test_two_processes_equal_one(name, request):
    folder = request.getfixturevalue("two_processes" if name in SHARED else "others")
    report = json.loads((folder / f"{name}.json").read_text())
    assert report["world_sizes"] == [2, 2], "the launcher ran fewer processes than asked"
    assert report["rank_spread"] == 0, "the processes ended with different weights"
    whole, (method, settings) = _whole(name), TRAININGS[name]
    expected = rows_passed(methods()[method].cls(**settings), ROWS[method], settings, STEPS, BATCH)
    assert tuple(report["passes"]) == expected, "the processes did not share the work"
    assert distance(whole.weights, load_file(folder / f"{name}.safetensors")) <= 1e-5
    for one, other in zip(whole.logs, report["logs"], strict=True):
        for figure in one:
            assert one[figure] == pytest.approx(other[figure], abs=1e-4), figure
    if whole.trainer.row_weights is not None:
        assert report["row_times"] == whole.trainer.row_weights.times.tolist()
        assert report["row_sums"] == pytest.approx(whole.trainer.row_weights.sums.tolist(), abs=1e-5)


@pytest.mark.parametrize("name", thinned(REALIGNED, REPAIRS))
def test_two_processes_realign_as_one(name, request):
    folder = request.getfixturevalue("two_processes" if name in REPAIRS else "others")
    report = json.loads((folder / f"realign-{name}.json").read_text())
    assert report["rank_spread"] == 0, "the processes ended with different weights"
    model = adapted(tiny.model())
    before = {key: value.clone() for key, value in stored(model).items()}
    repaired = realign(model, REALIGNED[name])
    moved = distance(before, stored(model))
    assert distance(stored(model), load_file(folder / f"realign-{name}.safetensors")) <= 1e-5 < moved
    assert repaired.rows_trained == report["rows_trained"]
    assert report["chosen"] == (None if repaired.dose_curve is None else repaired.dose_curve.chosen)


@pytest.fixture
def edge(name, request):
    """The folder with a method's training at the edges."""
    return request.getfixturevalue("two_processes" if name in EDGES else "others")


@pytest.mark.parametrize("name", thinned(TRAININGS, EDGES))
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
    "name", thinned((n for n, (method, _) in TRAININGS.items() if "harmful" in methods()[method].streams), EDGES)
)
def test_a_process_without_a_row_of_a_stream_changes_nothing(name, edge):
    method, settings = TRAININGS[name]
    shape = LOPSIDED | {"per_device_train_batch_size": 2 * LOPSIDED["per_device_train_batch_size"]}
    whole = run(method, settings, **shape)
    assert distance(whole.weights, load_file(edge / f"{name}-lopsided.safetensors")) <= 1e-5
