"""Stages shared by several processes: the same result, whole or not at all, resumed by another number of them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

import mithridate as mi
from mithridate.errors import DataError, MithridateError, UsageError
from mithridate.experiment.launch import MicroBatches, check_launch, micro_batches
from mithridate.experiment.recipe_parts import TrainingSettings
from mithridate.experiment.shared_work import SharedWork, shared
from tests.experiment import launching
from tests.experiment.test_evaluation_stage import make_helping
from tests.helpers.training import distance
from tests.matrix.row import thinned

DEFENDED = {
    "name": "defended",
    "alignment": "antibody_alignment",
    "finetuning": "antibody_tuning",
    "posttuning": [{"method": "panacea", "radius": 0.5}],
}


def _tree(world: Path) -> dict[str, Any]:
    """A variant whose last batch of an epoch has one row; answers in several batches; an attack after release."""
    tree = make_helping(world)
    tree["streams"]["user"] |= {"size": 17, "held_out": 4}
    tree["alignment"]["epochs"] = 2
    tree["evaluation"] |= {
        "batch_size": 2,
        "release_attacks": [{"method": "prefilled", "wording": {"prefill": "take"}}],
    }
    return tree | {"variants": [DEFENDED], "reference": None}


@pytest.fixture(scope="module")
def runs(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same recipe by one process and by two."""
    folders = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    for processes, folder in enumerate(folders, start=1):
        mi.run(_tree(world), folder, launch=processes)
    return folders


def _weights(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {str(path.relative_to(folder)): load_file(path) for path in sorted(folder.glob("store/*/*/*.safetensors"))}


def _records(folder: Path, stage: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"store/{stage}-*/result.json"))]


def test_two_processes_train_the_weights_of_one(runs: tuple[Path, Path]) -> None:
    one, two = map(_weights, runs)
    assert one.keys() == two.keys(), "another number of processes is the same stage"
    assert len(one) == 3
    for name in one:
        assert distance(one[name], two[name]) <= 1e-5, name
    assert [record["processes"] for record in _records(runs[1], "finetuning")] == [2]
    assert [record["processes"] for record in _records(runs[0], "finetuning")] == [1]


def test_two_processes_find_the_answers_and_figures_of_one(runs: tuple[Path, Path]) -> None:
    one, two = (json.loads((folder / "answers.json").read_text()) for folder in runs)
    assert one == two
    for first, second in zip(*(_records(folder, "evaluation") for folder in runs), strict=True):
        assert {n: v for n, v in first.items() if n != "help"} == {n: v for n, v in second.items() if n != "help"}
        assert first["release"]["prefilled"]
        assert [loss[0] for loss in first["help"]["losses"]] == pytest.approx(
            [loss[0] for loss in second["help"]["losses"]], abs=1e-4
        )


def test_the_manifest_says_how_many_processes_trained(runs: tuple[Path, Path]) -> None:
    for processes, folder in enumerate(runs, start=1):
        manifest = json.loads((folder / "variants/defended/seed-0/manifest.json").read_text())
        assert manifest["world_size"] == processes
        assert [stage.get("processes") for stage in manifest["stages"]] == [processes, processes, None]


def test_what_one_process_has_done_is_not_done_again(world: Path, runs: tuple[Path, Path], tmp_path: Path) -> None:
    copied = shutil.copytree(runs[0], tmp_path / "again")
    results = mi.run(_tree(world), copied, launch=2)
    assert results.effort is not None
    assert results.effort.made == 0


@pytest.fixture(scope="module")
def killed(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes of which one was killed in the middle of fine-tuning."""
    folder = tmp_path_factory.mktemp("killed")
    said = "process 1 of 2 was killed by SIGKILL.*resumes from the last checkpoint"
    with pytest.MonkeyPatch.context() as patched:
        # From within: a stage this small may be over before a process outside it has seen its third step.
        patched.setattr("mithridate.experiment.training_stage.train", launching.killed_in_tuning)
        with pytest.raises(MithridateError, match=said):
            mi.run(_tree(world), folder, launch=2)
    return folder


def test_a_killed_process_leaves_no_finished_stage(killed: Path) -> None:
    assert list(killed.glob("store/alignment-*/result.json"))
    assert not list(killed.glob("store/finetuning-*/result.json"))
    assert list(killed.glob("store/finetuning-*.part/checkpoint-*"))
    assert not (killed / "results.json").exists()


@pytest.mark.parametrize("processes", thinned([1, 2], [2]))
def test_killed_by_two_processes_it_resumes_by_one_or_two(
    world: Path, killed: Path, runs: tuple[Path, Path], tmp_path: Path, processes: int
) -> None:
    folder = shutil.copytree(killed, tmp_path / "resumed")
    mi.run(_tree(world), folder, launch=processes)
    assert [r["processes"] for r in _records(folder, "finetuning") if r["resumed_from"]] == [processes]
    straight, resumed = _weights(runs[0]), _weights(folder)
    assert straight.keys() == resumed.keys()
    for name in straight:
        assert distance(straight[name], resumed[name]) <= 1e-5, name


def test_a_defense_that_cannot_act_is_told_as_by_one_process(world: Path, tmp_path: Path) -> None:
    tree = _tree(world)
    tree["variants"] = [{"name": "undefended", "finetuning": "none"}, {"name": "wild"}]
    tree["finetuning"]["learning_rate"] = 1e30
    tree["evaluation"].pop("release_attacks")
    results = mi.run(tree, tmp_path, launch=2)
    assert [variant.name for variant in results.variants] == ["undefended"]
    assert [(failure.variant, failure.stage) for failure in results.failures] == [("wild", "finetuning")]
    assert "lower the learning rate" in results.failures[0].reason


@pytest.mark.slow
def test_no_process_outlives_a_killed_run(world: Path, tmp_path: Path) -> None:
    tree = _tree(world)
    tree["alignment"]["epochs"] = 500
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree))
    script = tmp_path / "run.py"
    script.write_text("import sys, mithridate\nif __name__ == '__main__': mithridate.run(*sys.argv[1:], launch=2)")
    run = subprocess.Popen([sys.executable, str(script), str(recipe), str(tmp_path / "out")])
    parent = psutil.Process(run.pid)
    while not list((tmp_path / "out").glob("store/alignment-*.part/checkpoint-*")):
        assert run.poll() is None
        time.sleep(0.1)
    team = parent.children(recursive=True)
    assert len(team) >= 3  # two, and the server that they are forked from
    run.kill()
    run.wait()
    _, alive = psutil.wait_procs(team, timeout=20)
    assert not alive


@pytest.mark.slow
def test_jobs_share_their_stages_too(world: Path, runs: tuple[Path, Path], tmp_path: Path) -> None:
    mi.run(_tree(world), tmp_path, jobs=2, launch=2)
    for name, weights in _weights(runs[1]).items():
        assert distance(weights, _weights(tmp_path)[name]) == 0, name


@pytest.mark.slow
def test_weights_trained_without_an_adapter_are_those_of_one_process(world: Path, tmp_path: Path) -> None:
    tree = _tree(world) | {"adapter": "none"}
    tree["finetuning"]["accumulation"] = 2
    for processes, name in ((1, "one"), (2, "two"), (4, "four")):
        mi.run(tree, tmp_path / name, launch=processes)
    one = _weights(tmp_path / "one")
    for name in ("two", "four"):
        for file, weights in _weights(tmp_path / name).items():
            off = torch.cat([(one[file][key] - weights[key]).abs().flatten() for key in weights])
            # AdamW divides by the gradient's size: where that is nothing but rounding, so is the weight's step.
            assert (off > 1e-5).sum() <= 2, (name, file)
            assert off.square().mean().sqrt() <= 1e-6, (name, file)


def test_a_batch_that_cannot_be_shared_evenly_is_refused_before_any_work(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batch_size 4 cannot be shared evenly by 3 processes"):
        mi.run(_tree(world), tmp_path, launch=3)
    assert not list(tmp_path.glob("store/*/result.json"))


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_launch(2, [TrainingSettings(batch_size=8)])
    with pytest.raises(UsageError, match="4 processes were asked for and there are 2 GPUs"):
        check_launch(4, [])


def test_no_process_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="launch is 0"):
        check_launch(0, [])


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "processes", "own"),
    [
        (16, 1, 1, (16, 1)),
        (16, 4, 1, (4, 4)),
        (16, 1, 2, (8, 1)),
        (16, 4, 2, (4, 2)),
        (16, 4, 4, (4, 1)),
        (16, 4, 8, (2, 1)),
        (12, 3, 2, (3, 2)),  # 4 rows fit into a pass, but 6 are no multiple of 4
        (15, 3, 5, (3, 1)),
        (7, 1, 7, (1, 1)),
    ],
)
def test_an_optimizer_step_keeps_its_rows_and_a_pass_has_no_more_than_before(
    batch_size: int, accumulation: int, processes: int, own: tuple[int, int]
) -> None:
    training = TrainingSettings(batch_size=batch_size, accumulation=accumulation)
    found = micro_batches(training, processes)
    assert found == MicroBatches(*own)
    assert found.rows * found.number * processes == batch_size


def _nothing(done: int, total: int) -> None:
    pass


def test_what_the_first_process_returns_and_reports_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUNCH_TEST", "as it is now")
    seen: list[tuple[int, int]] = []
    assert shared(SharedWork(launching.counted, (10,), 3, 1), lambda done, total: seen.append((done, total))) == (
        13,
        3,
        "as it is now",
    )
    assert seen == [(1, 9)]


def test_a_result_of_many_megabytes_comes_back() -> None:
    assert len(shared(SharedWork(launching.large, (), 2, 1), _nothing)) == 5_000_000


@pytest.mark.parametrize(
    ("function", "error", "said"),
    [
        (launching.refused, DataError, "row 3 of a.jsonl is empty"),
        (launching.faulty, ZeroDivisionError, "a fault of ours"),
        (launching.killed, MithridateError, "process 2 of 2 was killed by SIGKILL, most likely for lack of memory"),
        (launching.leaving, MithridateError, "process 2 of 2 ended with exit code 7"),
    ],
)
def test_the_cause_is_told_and_not_what_followed_from_it(
    function: Callable[..., Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        shared(SharedWork(function, (), 2, 1), _nothing)


@pytest.mark.parametrize("reason", [KeyboardInterrupt, OSError])
def test_an_interrupted_run_ends_its_processes(reason: type[BaseException]) -> None:
    def interrupt(done: int, total: int) -> None:
        raise reason

    handled = signal.getsignal(signal.SIGINT)
    with pytest.raises(reason):
        shared(SharedWork(launching.counted, (0,), 2, 1), interrupt)
    ours = [c for c in psutil.Process().children(recursive=True) if c.ppid() != os.getpid()]
    assert not [child for child in ours if child.status() != psutil.STATUS_ZOMBIE]
    assert signal.getsignal(signal.SIGINT) == handled
