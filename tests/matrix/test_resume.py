"""A run killed with SIGKILL and resumed ends on the very bits of an uninterrupted one; damage is refused."""

import inspect
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from mithridate.defenses.registry import methods
from mithridate.errors import CheckpointError
from mithridate.training import state
from tests.helpers.processes import exit_code
from tests.helpers.training import distance, finished, run, trainer, training_methods
from tests.matrix.row import thinned
from tests.matrix.rows import ROWS

SHAPE = {
    "rows": 24, "max_steps": 9, "save_steps": 2, "save_strategy": "steps", "dropout": 0.1,
    "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "lr_scheduler_type": "linear",
}  # fmt: skip
"""Six optimizer steps an epoch, a checkpoint every two; dropout, so that random states count as well."""
POINTS = {"first-step": 2, "mid-epoch": 5, "epoch-edge": 6}
"""Optimizer steps finished when the kill comes, in the middle of the next one."""


class Killer(TrainerCallback):
    """Ends the process without warning once the gradient of a step is ready and not yet used."""

    def __init__(self, step):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def _defense(name):
    return methods()[name].cls(**ROWS[name].strained)


def _train_until_killed(name, folder, step):
    trainer(_defense(name), folder, callbacks=[Killer(step)], **SHAPE).train()


def _killed_while_sealing(name, folder, limit):
    sealed = state.seal

    def seal(checkpoint):
        if checkpoint.name == "checkpoint-4":
            os.kill(os.getpid(), signal.SIGKILL)
        sealed(checkpoint)

    state.seal = seal
    trainer(_defense(name), folder, save_total_limit=limit, **SHAPE).train()


def _killed(target, *arguments):
    assert exit_code(target, *arguments) == -signal.SIGKILL


def _resumed(name, folder, checkpoint=True):
    made = trainer(_defense(name), folder, **SHAPE)
    made.train(resume_from_checkpoint=checkpoint)
    return finished(made)


def _assert_same_end(name, resumed):
    straight = run(name, ROWS[name].strained, **SHAPE)
    assert distance(straight.weights, resumed.weights) == 0
    if resumed.logs:
        assert straight.logs[-1] == resumed.logs[-1]
    if straight.trainer.row_weights is not None:
        assert torch.equal(straight.trainer.row_weights.sums, resumed.trainer.row_weights.sums)
        assert torch.equal(straight.trainer.row_weights.times, resumed.trainer.row_weights.times)


AT_EPOCH_EDGES = ("lisa", "panacea_tuning", "safety_mixing")
"""Killed there at every commit: a phase, a vector over the weights, and a stream beside the training rows."""

MID_EPOCH = ("antibody_alignment", "antibody_tuning", "joint_alignment", "lisa", "panacea_tuning", "sbr")
"""Killed there at every commit: row weights, last acts, phases, kept vectors, anchors, and draws from three streams."""

DRAWING = ("booster", "joint_alignment", "safety_mixing", "sft")
"""Of the methods that only draw rows, those that are resumed at the end at every commit."""


def _remembers(name):
    return "step.memory" in inspect.getsource(methods()[name].cls)


def _kills():
    """All points for methods with a memory of their own, the middle of an epoch for those that only draw rows."""
    for name in training_methods():
        remembers = _remembers(name)
        for point, step in POINTS.items():
            if remembers or point == "mid-epoch":
                slow = {
                    "first-step": True,
                    "mid-epoch": name not in MID_EPOCH,
                    "epoch-edge": name not in AT_EPOCH_EDGES,
                }[point]
                marks = [pytest.mark.slow] if slow else []
                yield pytest.param(name, step, id=f"{name}-{point}", marks=marks)


@pytest.mark.parametrize(("name", "step"), _kills())
def test_killed_and_resumed_equals_uninterrupted(name, step, tmp_path):
    _killed(_train_until_killed, name, str(tmp_path), step)
    last = step - step % 2
    assert state.newest_finished(tmp_path) == tmp_path / f"checkpoint-{last}"
    _assert_same_end(name, _resumed(name, tmp_path))


@pytest.mark.parametrize("limit", [None, 1])
def test_killed_while_a_checkpoint_is_written_resumes_from_the_one_before(limit, tmp_path):
    _killed(_killed_while_sealing, "antibody_alignment", str(tmp_path), limit)
    assert (tmp_path / "checkpoint-4").is_dir()
    with pytest.raises(CheckpointError, match="never finished"):
        _resumed("antibody_alignment", tmp_path, str(tmp_path / "checkpoint-4"))
    assert state.newest_finished(tmp_path) == tmp_path / "checkpoint-2"
    _assert_same_end("antibody_alignment", _resumed("antibody_alignment", tmp_path))


@pytest.mark.parametrize("name", thinned(training_methods(), [*filter(_remembers, training_methods()), *DRAWING]))
def test_resumed_after_the_last_step_the_end_is_the_same(name, tmp_path):
    """A method that acts once at the end must do so from what the checkpoint holds."""
    folder = Path(run(name, ROWS[name].strained, **SHAPE).trainer.args.output_dir)
    _assert_same_end(name, _resumed(name, tmp_path, str(folder / "checkpoint-9")))


DAMAGE = {
    "removed": lambda path: path.unlink(),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "flipped": lambda path: path.write_bytes(_flipped(path.read_bytes())),
}


def _flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("name", ["antibody_tuning", "panacea_tuning"])
def test_every_damaged_checkpoint_file_is_refused(name, damage, tmp_path):
    sound = Path(run(name, ROWS[name].strained, **SHAPE).trainer.args.output_dir) / "checkpoint-8"
    made = trainer(_defense(name), tmp_path, **SHAPE)
    before = {n: p.detach().clone() for n, p in made.model.named_parameters()}
    files = [path.relative_to(sound) for path in sound.rglob("*") if path.is_file() and path.stat().st_size]
    assert {"optimizer.pt", "rng_state.pth", "trainer_state.json", state.MANIFEST} <= {str(file) for file in files}
    for number, file in enumerate(files):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(sound, copy)
        damage(copy / file)
        with pytest.raises(CheckpointError):
            made.train(resume_from_checkpoint=str(copy))
    assert distance(before, dict(made.model.named_parameters())) == 0, "a refused checkpoint was loaded all the same"


def test_only_as_many_checkpoints_are_kept_as_asked(tmp_path):
    trainer(_defense("sft"), tmp_path, save_total_limit=2, **SHAPE).train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-8", "checkpoint-9"]


def test_without_a_finished_checkpoint_there_is_nothing_to_resume(tmp_path):
    with pytest.raises(CheckpointError, match="no finished checkpoint"):
        trainer(_defense("sft"), tmp_path, **SHAPE).train(resume_from_checkpoint=True)


def test_a_stock_checkpoint_is_refused(tmp_path):
    trainer(None, tmp_path, **SHAPE).train()
    with pytest.raises(CheckpointError):
        trainer(_defense("sft"), tmp_path, **SHAPE).train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
