"""FSDP2: weights split over processes train to the same weights as one process, with every method."""

import json

import pytest
import torch
from safetensors.torch import load_file

from mithridate.defenses.registry import methods
from mithridate.training import state
from tests.helpers import tiny
from tests.helpers.processes import together
from tests.helpers.training import distance, finished, run, trainer
from tests.matrix.row import rows_passed, thinned
from tests.matrix.rows import ROWS, cut_and_shared
from tests.matrix.sharded_processes import EVALUATING, do
from tests.matrix.two_processes import FILLED_UP, LOPSIDED

TRAININGS = cut_and_shared()
STEPS, BATCH = 4, 8
SHAPE = {"max_steps": STEPS, "rows": 24}
_FILLED_UP = FILLED_UP | {"rows": 3 * BATCH + 1}
QUICK = ["antibody_tuning", "repnoise", "t_vaccine", "antibody-shared"]
"""Row weights; a loss over the step with hidden states; displaced activations and frozen layers; kept vectors."""
UNEVEN = ["antibody_tuning"]
"""Trained in the quick tests on rows that do not fill the last batch: each row is weighted and counted."""
FULL = ["antibody_alignment"]
"""Trained with all weights in the quick tests: two displaced gradients."""
HARMFUL = [name for name, (method, _) in TRAININGS.items() if "harmful" in methods()[method].streams]
ALONE = ["panacea_tuning"]
"""Trained in the quick tests on a stream's batch of one row, which leaves a process without any."""
SAVED = "panacea_tuning"
"""Its memory holds a vector over the weights, and it acts at the end."""


def _job(kind, training, processes, suffix="", **options):
    shape = SHAPE | {"per_device_train_batch_size": BATCH // processes} | options
    return {"id": f"{training}{suffix}", "kind": kind, "training": training, "options": shape}


def _lopsided(training, processes):
    alone = LOPSIDED | {"per_device_train_batch_size": 4 // processes}
    return {"id": f"{training}-lopsided", "kind": "train", "training": training, "options": alone}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What the quick tests ask of two processes, in one launch."""
    folder = tmp_path_factory.mktemp("two-sharded")
    jobs = [_job("train", name, 2) for name in QUICK] + [_job("train", name, 2, "-full", full=True) for name in FULL]
    jobs += [_lopsided(name, 2) for name in ALONE]
    jobs += [_job("train", name, 2, "-filled-up", **_FILLED_UP) for name in UNEVEN]
    saved = _job("save", SAVED, 2)
    jobs += [
        saved,
        saved | {"kind": "resume", "id": f"{SAVED}-resumed", "checkpoint": f"{folder}/{SAVED}/checkpoint-2"},
    ]
    together(2, do, folder, jobs)
    return folder


@pytest.fixture(scope="module")
def all_by_two(tmp_path_factory):
    """Every other training by two processes: with an adapter, with all weights, and on a single harmful row."""
    folder = tmp_path_factory.mktemp("all-by-two-sharded")
    jobs = [_job("train", name, 2) for name in TRAININGS if name not in QUICK]
    jobs += [_job("train", name, 2, "-full", full=True) for name in _trained_whole() if name not in FULL]
    jobs += [_lopsided(name, 2) for name in HARMFUL if name not in ALONE]
    jobs += [_job("train", name, 2, "-filled-up", **_FILLED_UP) for name in QUICK if name not in UNEVEN]
    together(2, do, folder, jobs)
    return folder


@pytest.fixture(scope="module")
def four(tmp_path_factory, two):
    """Four processes, two of which get no row of a step of two, and some shards are empty."""
    folder = tmp_path_factory.mktemp("four-sharded")
    jobs = [_job("train", name, 4) for name in [*QUICK, "salora"]]
    jobs += [_job("train", name, 4, "-full", full=True) for name in FULL]
    jobs += [_lopsided(name, 4) for name in ALONE]
    checkpoint = {"checkpoint": f"{two}/{SAVED}/checkpoint-2"}
    jobs += [_job("resume", SAVED, 4, "-resumed") | checkpoint]
    together(4, do, folder, jobs)
    return folder


def _trained_whole():
    return [name for name, (method, settings) in TRAININGS.items() if not ROWS[method].needs_lora(settings)]


def _assert_equal(folder, name, training, *, full=False, shape=SHAPE, counts=True):
    report = json.loads((folder / f"{name}.json").read_text())
    method, settings = TRAININGS[training]
    rows = {"per_device_train_batch_size": BATCH if shape is SHAPE else 4}
    whole = run(method, settings, **rows | shape, full=full)
    weights = load_file(folder / f"{name}.safetensors")
    scale = max(float(weight.abs().max()) for weight in weights.values())
    assert distance(whole.weights, weights) <= 1e-5 * max(1.0, scale)
    for one, other in zip(whole.logs, report["logs"], strict=True):
        for figure in one:
            assert one[figure] == pytest.approx(other[figure], abs=1e-4, rel=1e-5), figure
    if whole.trainer.row_weights is not None:
        assert report["row_sums"] == pytest.approx(whole.trainer.row_weights.sums.tolist(), abs=1e-5)
    if counts:
        passed = rows_passed(methods()[method].cls(**settings), ROWS[method], settings, STEPS, BATCH)
        *rows, stand_ins = report["passes"]
        # A row that stands in for rows that a process lacks is passed beyond the rows of the step.
        assert all(0 <= one - other <= 3 * stand_ins for one, other in zip(rows, passed, strict=True)), (
            "the processes did not share the work"
        )
    return report


def _folder(request, name, quick):
    return request.getfixturevalue("two" if name in quick else "all_by_two")


@pytest.mark.parametrize("name", thinned(TRAININGS, QUICK))
def test_two_processes_with_a_split_adapter_equal_one(name, request):
    report = _assert_equal(_folder(request, name, QUICK), name, name)
    assert report["sharded"]
    assert report["world_size"] == 2


@pytest.mark.parametrize("name", thinned(QUICK, UNEVEN))
def test_rows_that_fill_the_last_batch_up_are_not_trained_on(name, request):
    whole = run(*TRAININGS[name], **_FILLED_UP, per_device_train_batch_size=BATCH)
    assert distance(whole.weights, load_file(_folder(request, name, UNEVEN) / f"{name}-filled-up.safetensors")) <= 1e-5


@pytest.mark.parametrize("name", thinned(_trained_whole(), FULL))
def test_two_processes_with_all_weights_split_equal_one(name, request):
    report = _assert_equal(_folder(request, name, FULL), f"{name}-full", name, full=True)
    # Half of the weights and of AdamW's two moments, up to rows that do not divide.
    assert report["held"] <= 0.55 * report["weights"]
    assert report["optimizer_held"] <= 2 * 0.55 * report["weights"]


@pytest.mark.parametrize("name", thinned(HARMFUL, ALONE))
def test_a_process_without_a_row_of_a_stream_makes_the_same_passes(name, request):
    shape = {key: value for key, value in LOPSIDED.items() if key != "per_device_train_batch_size"}
    _assert_equal(_folder(request, name, ALONE), f"{name}-lopsided", name, shape=shape, counts=False)


def test_a_checkpoint_of_split_weights_is_whole_and_resumes_to_the_same_weights(two):
    checkpoint = two / SAVED / "checkpoint-2"
    state.verify(checkpoint)
    assert (checkpoint / "mithridate-shards" / ".metadata").is_file()
    assert (checkpoint / "finished" / "adapter_model.safetensors").is_file()
    straight, resumed = (load_file(two / f"{name}.safetensors") for name in (SAVED, f"{SAVED}-resumed"))
    assert distance(straight, resumed) == 0


def test_the_model_saved_at_the_end_is_whole(two):
    trained = load_file(two / f"{SAVED}.safetensors")
    saved = load_file(two / f"{SAVED}-model" / "adapter_model.safetensors")
    assert distance({n.replace(".default", ""): w for n, w in trained.items()}, saved) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [*QUICK, "salora"])
def test_four_processes_equal_one(name, four):
    assert _assert_equal(four, name, name)["world_size"] == 4


@pytest.mark.slow
def test_four_processes_with_all_weights_split_equal_one(four):
    _assert_equal(four, f"{FULL[0]}-full", FULL[0], full=True)


@pytest.mark.slow
def test_three_of_four_processes_without_a_row_of_a_stream_make_the_same_passes(four):
    shape = {key: value for key, value in LOPSIDED.items() if key != "per_device_train_batch_size"}
    _assert_equal(four, f"{ALONE[0]}-lopsided", ALONE[0], shape=shape, counts=False)


@pytest.mark.slow
def test_a_checkpoint_of_two_processes_resumes_on_four(two, four):
    straight, resumed = (load_file(f / f"{n}.safetensors") for f, n in ((two, SAVED), (four, f"{SAVED}-resumed")))
    assert distance(straight, resumed) <= 1e-5


LOSS = 1.5e-2
"""What rounding to bfloat16 may change of a loss in these runs, in nats."""


@pytest.fixture(scope="module")
def other_ways(tmp_path_factory):
    """Two processes in one launch: in half precision, over micro-batches, with tied embeddings, and what is refused."""
    folder = tmp_path_factory.mktemp("other-ways-sharded")
    cut = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    jobs = [
        _job("train", "antibody_tuning", 2, "-cut", **cut),
        _job("train", "repnoise", 2, "-tied", full=True) | {"model": "tied"},
        _job("train", "booster", 2, "-half") | {"model": "half"},
        _job("train", "antibody_tuning", 2, "-evaluated") | {"evaluates": True},
        _job("train", "antibody_tuning", 2, "-unpadded", padding_free=True),
        _job("refuse", "booster", 2, "-refused", full=True) | {"model": "half"},
        _job("repair", "sft", 2, "-repaired"),
        _job("train", "sft", 2, "-autocast", bf16=True),
        _job("train", "antibody_alignment", 2, "-autocast", bf16=True),
    ]
    together(2, do, folder, jobs)
    return folder


@pytest.mark.slow
def test_micro_batches_of_two_processes_equal_one_batch(other_ways):
    _assert_equal(other_ways, "antibody_tuning-cut", "antibody_tuning")


@pytest.mark.slow
def test_unpadded_passes_of_two_processes_equal_padded_ones_of_one(other_ways):
    _assert_equal(other_ways, "antibody_tuning-unpadded", "antibody_tuning", counts=False)


@pytest.mark.slow
def test_an_evaluation_between_steps_changes_nothing(other_ways, tmp_path):
    report = _assert_equal(other_ways, "antibody_tuning-evaluated", "antibody_tuning", counts=False)
    method, settings = TRAININGS["antibody_tuning"]
    options = {"per_device_train_batch_size": BATCH} | EVALUATING
    whole = trainer(
        methods()[method].cls(**settings), tmp_path, **SHAPE, **options, extra={"eval_dataset": tiny.rows("user", 6)}
    )
    whole.train()
    losses = [log["eval_loss"] for log in whole.state.log_history if "eval_loss" in log]
    assert report["evaluated"] == pytest.approx(losses, abs=1e-5)


@pytest.mark.slow
def test_tied_embeddings_train_as_in_one_process(other_ways, tmp_path):
    """Head and embeddings are one tensor, and the head is also read outside the model's forward pass."""
    method, settings = TRAININGS["repnoise"]
    options = {"per_device_train_batch_size": BATCH, "full": True, "extra": {"model": tiny.model(tied=True)}}
    whole = trainer(methods()[method].cls(**settings), tmp_path, **SHAPE, **options)
    whole.train()
    assert distance(finished(whole).weights, load_file(other_ways / "repnoise-tied.safetensors")) <= 1e-5


@pytest.mark.slow
def test_under_autocast_two_processes_train_as_one(other_ways):
    # The same rows in each pass and all of weight 1, so that the same numbers are rounded.
    cut = {"per_device_train_batch_size": BATCH // 2, "gradient_accumulation_steps": 2}
    whole = run(*TRAININGS["sft"], **SHAPE, **cut, bf16=True)
    assert distance(whole.weights, load_file(other_ways / "sft-autocast.safetensors")) <= 1e-5


@pytest.mark.slow
def test_displacements_are_not_rounded_under_autocast(other_ways):
    whole = run(*TRAININGS["antibody_alignment"], **SHAPE, per_device_train_batch_size=BATCH, bf16=True)
    report = json.loads((other_ways / "antibody_alignment-autocast.json").read_text())
    for one, other in zip(whole.logs, report["logs"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=LOSS)
        assert one["sharpness_norm"] == pytest.approx(other["sharpness_norm"], rel=0.05)


@pytest.mark.slow
def test_a_split_model_in_half_precision_trains_its_adapter_in_float32(other_ways, tmp_path):
    method, settings = TRAININGS["booster"]
    rounded = {"model": tiny.model().to(torch.bfloat16).float()}
    whole = trainer(methods()[method].cls(**settings), tmp_path, **SHAPE, per_device_train_batch_size=8, extra=rounded)
    with torch.no_grad():
        for parameter in whole.model.parameters():
            parameter.copy_(parameter.bfloat16())  # PEFT makes an adapter in the type of the model
    whole.train()
    assert distance(finished(whole).weights, load_file(other_ways / "booster-half.safetensors")) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("rank", range(2))
def test_gradients_that_would_be_rounded_are_refused_on_every_process(rank, other_ways):
    assert "bf16=True" in (other_ways / f"booster-refused-{rank}.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("rank", range(2))
@pytest.mark.parametrize("name", ["antidote", "panacea", "random_perturbation"])
def test_a_split_model_is_not_repaired(name, rank, other_ways):
    assert "trainer.save_model()" in (other_ways / f"sft-repaired-{name}-{rank}.txt").read_text()
