"""DeepSpeed: under ZeRO-1 and ZeRO-2 several processes train to the same weights as one, with every method."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mithridate.defenses.registry import methods
from mithridate.training import state
from tests.helpers import tiny
from tests.helpers.training import distance, finished, run, trainer
from tests.matrix.sharded_processes import EVALUATING
from tests.matrix.test_sharding import (
    _FILLED_UP,
    BATCH,
    HARMFUL,
    LOSS,
    SHAPE,
    TRAININGS,
    _assert_equal,
    _job,
    _lopsided,
    _trained_whole,
)
from tests.matrix.two_processes import LOPSIDED

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None,
    reason="deepspeed is not installed: pip install -c constraints.txt '.[deepspeed]'",
)

STAGES = ["zero1", "zero2"]
QUICK = ["antibody_tuning", "repnoise", "t_vaccine"]
"""Row weights; a loss over the step with hidden states; blocks that the optimizer must leave alone."""
FULL = ["antibody_alignment"]
SAVED = "panacea_tuning"
"""Its memory holds a vector over the weights, and it acts at the end."""
WHOLE = SHAPE | {"per_device_train_batch_size": BATCH}
DECAYING = {"weight_decay": 0.1, "lr_scheduler_type": "linear", "warmup_steps": 1}
"""Weights that no gradient reaches would move all the same, and by another rate at every step."""
CLIPPED = {"optim": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.7}
"""Unlike AdamW's, its steps are as long as the gradient."""


def _by(engine, job):
    return job | {"engine": engine, "id": f"{job['id']}-{engine}"}


def launched(folder, processes, jobs, *, succeeds=True):
    """Run jobs by so many processes in one launch."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}",
        "-m", "tests.matrix.sharded_processes", str(folder), json.dumps(jobs),
    ]  # fmt: skip
    # A pass that one process makes alone would wait for ever.
    done = subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=580
    )
    if succeeds:
        assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What the quick tests ask of two processes, in one launch."""
    folder = tmp_path_factory.mktemp("two-zero")
    jobs = [_by("zero2", _job("train", name, 2, **DECAYING)) for name in QUICK]
    jobs += [_by("zero2", _job("train", name, 2, "-full", full=True)) for name in FULL]
    saved = _by("zero2", _job("save", SAVED, 2))
    jobs += [
        saved,
        saved | {"kind": "resume", "id": f"{SAVED}-resumed", "checkpoint": f"{folder}/{saved['id']}/checkpoint-2"},
        _by("bare", _job("train", "sft", 2, "-clipped", **CLIPPED)),
        _by("zero2", _job("plain", "sft", 2, "-plain")),
    ]
    launched(folder, 2, jobs)
    return folder


@pytest.mark.parametrize("name", QUICK)
def test_two_processes_equal_one(name, two):
    report = _assert_equal(two, f"{name}-zero2", name, shape=WHOLE | DECAYING, counts=False)
    assert report["world_size"] == 2


@pytest.mark.parametrize("name", FULL)
def test_each_process_holds_half_of_the_optimizers_state(name, two):
    report = _assert_equal(two, f"{name}-full-zero2", name, full=True)
    assert report["held"] == report["weights"]
    assert report["optimizer_held"] <= 2 * 0.55 * report["weights"]


def test_gradients_are_clipped_once_and_as_by_one_process(two):
    """Also where the DeepSpeed config says nothing of it, and the norm that is logged is that before clipping."""
    report = _assert_equal(two, "sft-clipped-bare", "sft", shape=WHOLE | CLIPPED, counts=False)
    assert all(log["grad_norm"] > CLIPPED["max_grad_norm"] for log in report["logs"])


def test_a_checkpoint_is_whole_and_resumes_to_the_same_weights(two):
    checkpoint = two / f"{SAVED}-zero2" / "checkpoint-2"
    state.verify(checkpoint)
    assert (checkpoint / "finished" / "adapter_model.safetensors").is_file()
    straight, resumed = (load_file(two / f"{name}.safetensors") for name in (f"{SAVED}-zero2", f"{SAVED}-resumed"))
    assert distance(straight, resumed) == 0
    _assert_equal(two, f"{SAVED}-zero2", SAVED, counts=False)


def test_the_model_saved_at_the_end_is_the_trained_one(two):
    trained = load_file(two / f"{SAVED}-zero2.safetensors")
    saved = load_file(two / f"{SAVED}-zero2-model" / "adapter_model.safetensors")
    assert distance({n.replace(".default", ""): w for n, w in trained.items()}, saved) == 0


def test_nothing_of_the_engine_is_left_on_the_trained_model(two):
    """Its hooks would average the gradients of any later backward pass over the processes and remove them."""
    report = json.loads((two / "sft-plain-zero2.json").read_text())
    assert report["own_gradient"]
    assert report["hooks"] == 0
    assert "make a new DefendedTrainer" in report["again"]


@pytest.fixture(scope="module")
def all_by_two(tmp_path_factory):
    """Every training by two processes under both stages: with an adapter, with all weights, on a single harmful row."""
    folder = tmp_path_factory.mktemp("all-by-two-zero")
    jobs = [_job("train", name, 2) for name in TRAININGS]
    jobs += [_job("train", name, 2, "-full", full=True) for name in _trained_whole()]
    jobs += [_lopsided(name, 2) for name in HARMFUL]
    launched(folder, 2, [_by(stage, job) for stage in STAGES for job in jobs])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_with_an_adapter_equal_one(name, stage, all_by_two):
    _assert_equal(all_by_two, f"{name}-{stage}", name)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", _trained_whole())
def test_two_processes_with_all_weights_equal_one(name, stage, all_by_two):
    _assert_equal(all_by_two, f"{name}-full-{stage}", name, full=True)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", HARMFUL)
def test_a_process_without_a_row_of_a_stream_takes_the_same_step(name, stage, all_by_two):
    shape = {key: value for key, value in LOPSIDED.items() if key != "per_device_train_batch_size"}
    _assert_equal(all_by_two, f"{name}-lopsided-{stage}", name, shape=shape, counts=False)


@pytest.fixture(scope="module")
def other_ways(tmp_path_factory):
    """Two processes in one launch: over micro-batches, in half precision, without padding, and what is refused."""
    folder = tmp_path_factory.mktemp("other-ways-zero")
    cut = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    held = _by("zero1", _job("save", "t_vaccine", 2, **DECAYING))
    jobs = [
        _by("zero2", _job("train", "antibody_tuning", 2, "-cut", **cut)),
        _by("zero1", _job("train", "antibody_tuning", 2, "-cut", **cut)),
        _by("zero2", _job("train", "sft", 2, "-filled-up", **_FILLED_UP)),
        _by("overlapping", _job("train", "booster", 2)),
        _by("zero2", _job("train", "antibody_tuning", 2, "-evaluated") | {"evaluates": True}),
        _by("zero2", _job("train", "antibody_tuning", 2, "-unpadded", padding_free=True)),
        _by("zero2", _job("train", "vaccine", 2, "-recomputed", gradient_checkpointing=True)),
        _by("zero2", _job("train", "repnoise", 2, "-tied", full=True) | {"model": "tied"}),
        _by("zero2", _job("train", "salora", 2, **DECAYING)),
        held,
        held | {"kind": "resume", "id": "t_vaccine-resumed", "checkpoint": f"{folder}/{held['id']}/checkpoint-2"},
    ]
    jobs += [_by(stage, _job("train", name, 2, "-half", bf16=True)) for stage in STAGES for name in HALF]
    jobs += [_by("zero2", _job("train", name, 2, "-half-full", bf16=True, full=True)) for name in HALF]
    jobs += [_by("zero3", _job("refuse", "sft", 2, "-refused"))]
    launched(folder, 2, jobs)
    return folder


HALF = ["sft", "antibody_alignment", "antibody_tuning", "booster"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "training", "options"),
    [
        ("antibody_tuning-cut-zero2", "antibody_tuning", {}),
        ("antibody_tuning-cut-zero1", "antibody_tuning", {}),
        ("sft-filled-up-zero2", "sft", _FILLED_UP),
        ("booster-overlapping", "booster", {}),
        ("antibody_tuning-unpadded-zero2", "antibody_tuning", {}),
        ("vaccine-recomputed-zero2", "vaccine", {}),
        ("salora-zero2", "salora", DECAYING),
        ("t_vaccine-zero1", "t_vaccine", DECAYING),
    ],
)
def test_settings_that_say_how_a_step_is_taken_change_nothing(name, training, options, other_ways):
    _assert_equal(other_ways, name, training, shape=WHOLE | options, counts=False)


@pytest.mark.slow
def test_blocks_that_were_never_trained_are_resumed_too(other_ways):
    straight, resumed = (load_file(other_ways / f"{n}.safetensors") for n in ("t_vaccine-zero1", "t_vaccine-resumed"))
    assert distance(straight, resumed) == 0


@pytest.mark.slow
def test_an_evaluation_between_steps_changes_nothing(other_ways, tmp_path):
    report = _assert_equal(other_ways, "antibody_tuning-evaluated-zero2", "antibody_tuning", counts=False)
    assert len(report["evaluated"]) == SHAPE["max_steps"] // EVALUATING["eval_steps"]


@pytest.mark.slow
def test_tied_embeddings_train_as_in_one_process(other_ways, tmp_path):
    method, settings = TRAININGS["repnoise"]
    whole = trainer(
        methods()[method].cls(**settings), tmp_path, **WHOLE, full=True, extra={"model": tiny.model(tied=True)}
    )
    whole.train()
    assert distance(finished(whole).weights, load_file(other_ways / "repnoise-tied-zero2.safetensors")) <= 1e-5


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process under DeepSpeed, which stores weights in bfloat16 as two do."""
    folder = tmp_path_factory.mktemp("alone-zero")
    jobs = [_job("train", name, 1, "-half", bf16=True) for name in HALF]
    jobs += [_job("train", name, 1, "-half-full", bf16=True, full=True) for name in HALF]
    launched(folder, 1, [_by("zero2", job) for job in jobs])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["half-zero1", "half-zero2", "half-full-zero2"])
@pytest.mark.parametrize("name", HALF)
def test_in_half_precision_two_processes_train_as_one_up_to_rounding(name, suffix, other_ways, alone):
    two, one = (folder / f"{name}-{suffix}" for folder in (other_ways, alone))
    one = one.with_name(one.name.replace("zero1", "zero2"))
    weights, whole = (load_file(path.with_suffix(".safetensors")) for path in (two, one))
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    # Four steps of AdamW go no further than 0.04; what is rounded otherwise turns some of them around.
    far = torch.cat([(weights[n].float() - whole[n].float()).abs().flatten() for n in weights])
    assert far.mean() <= 5e-4
    logs = (json.loads(path.with_suffix(".json").read_text())["logs"] for path in (two, one))
    for mine, other in zip(*logs, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], abs=LOSS)


@pytest.mark.slow
@pytest.mark.parametrize("name", HALF)
def test_in_half_precision_the_losses_are_those_under_autocast(name, other_ways):
    report = json.loads((other_ways / f"{name}-half-zero2.json").read_text())
    whole = run(*TRAININGS[name], **WHOLE, bf16=True)
    for one, other in zip(whole.logs, report["logs"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=LOSS)


@pytest.mark.slow
@pytest.mark.parametrize("rank", range(2))
def test_weights_that_are_split_are_refused_on_every_process(rank, other_ways):
    assert "ZeRO-3" in (other_ways / f"sft-refused-zero3-{rank}.txt").read_text()


@pytest.mark.slow
def test_a_process_that_fails_ends_the_others(tmp_path):
    """It must not wait in a sum that the others do not take part in."""
    done = launched(tmp_path, 2, [_by("zero2", _job("fail", "sft", 2))], succeeds=False)
    assert done.returncode != 0
    assert "the second process failed" in done.stderr


@pytest.fixture(scope="module")
def three(tmp_path_factory, two):
    """Three processes, and a checkpoint of two."""
    folder = tmp_path_factory.mktemp("three-zero")
    jobs = [_by("zero2", _job("train", name, 3)) for name in QUICK]
    for job in jobs:
        job["options"]["per_device_train_batch_size"] = 2
    checkpoint = {"checkpoint": f"{two}/{SAVED}-zero2/checkpoint-2"}
    jobs += [_by("zero2", _job("refuse", SAVED, 3, "-resumed") | checkpoint)]
    launched(folder, 3, jobs)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_three_processes_equal_one(name, three):
    _assert_equal(three, f"{name}-zero2", name, shape=WHOLE | {"per_device_train_batch_size": 6}, counts=False)


@pytest.mark.slow
def test_a_checkpoint_of_two_is_refused_by_three(three):
    for rank in range(3):
        assert "resume it with 2" in (three / f"{SAVED}-resumed-zero2-{rank}.txt").read_text()
