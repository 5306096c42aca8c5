"""Stages on a Ray cluster: the bits of one machine, nothing lost with a node, nothing done on another kind of node."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import mithridate as mi
from mithridate.errors import MithridateError, UsageError
from mithridate.experiment import ray_pool
from mithridate.experiment.inputs import Inputs
from mithridate.experiment.jobs import StageNode
from mithridate.experiment.manifest import code_versions
from mithridate.experiment.monitor import Monitor
from mithridate.experiment.plan import Plan
from mithridate.experiment.ray_pool import StageAttempt
from mithridate.experiment.ray_task import RunPlace, _check_inputs, check_node, throttled
from mithridate.experiment.recipe_file import make_recipe
from mithridate.experiment.store import Store
from mithridate.experiment.workers import StageTask
from mithridate.files import file_hash
from mithridate.training.state import MANIFEST
from tests.helpers.ray_nodes import LocalCluster, broken_package, none_left, stage_processes

NOBODY = "127.0.0.2:1"
WEIGHTS = "variants/undefended/seed-0/model.safetensors"
STUCK = {"name": "stuck", "finetuning": "salora", "posttuning": {"method": "panacea", "radius": 0.5}}
"""Cannot act on an adapter that is trained on."""


@pytest.fixture(scope="module")
def head() -> Iterator[LocalCluster]:
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'ray[default]')")
    made = LocalCluster()
    yield made
    made.close()


@pytest.fixture
def cluster(head: LocalCluster) -> Iterator[LocalCluster]:
    yield head
    head.clear()
    assert none_left()


class Told(Monitor):
    """Keeps what the engine tells, and does something at a step."""

    def __init__(self, stage: str = "", step: int = 0, act: Any = None) -> None:
        self.stage, self.step, self.act = stage, step, act
        self.said: list[tuple[str, str]] = []

    def started(self, node: StageNode) -> None:
        self.said.append(("started", node.stage))

    def finished(self, node: StageNode) -> None:
        self.said.append(("finished", node.stage))

    def lost(self, node: StageNode, reason: str) -> None:
        self.said.append(("lost", node.stage))

    def progressed(self, node: StageNode, done: int, total: int) -> None:
        if node.stage == self.stage and done >= self.step and self.act is not None:
            act, self.act = self.act, None
            act()


def resumed(folder: Path) -> list[str]:
    records = [json.loads(path.read_text()) for path in folder.glob("store/*/result.json")]
    return [record["resumed_from"] for record in records if record.get("resumed_from")]


def longer(tree: dict[str, Any], epochs: int = 40) -> dict[str, Any]:
    """A recipe whose alignment takes long enough to be met in it."""
    tree["alignment"]["epochs"] = epochs
    return tree


# What needs a cluster of its own.


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_that_dies_loses_nothing_and_the_bits_are_those_of_one_machine(
    tree: dict[str, Any], tmp_path: Path, cluster: LocalCluster
) -> None:
    tree = longer(tree) | {"adapter": "continue", "seeds": [0, 1], "variants": [{"name": "undefended"}, STUCK]}
    first = cluster.add()

    def fail_over() -> None:
        cluster.add()
        cluster.add()
        cluster.kill(first)

    told, ending = Told("alignment", 3, fail_over), signal.getsignal(signal.SIGTERM)
    results = mi.run(tree, tmp_path / "ray", engine="ray", ray_address=cluster.address, monitor=told)
    assert signal.getsignal(signal.SIGTERM) == ending
    assert told.said.count(("lost", "alignment")) == 1
    assert told.said.count(("started", "alignment")) == 2
    assert told.said.count(("finished", "finetuning")) == 2
    assert resumed(tmp_path / "ray")
    assert [failure.variant for failure in results.failures] == ["stuck", "stuck"]
    assert results.effort is not None
    assert results.effort.made == 5
    mi.run(tree, tmp_path / "one")
    for seed in (0, 1):
        name = WEIGHTS.replace("seed-0", f"seed-{seed}")
        assert file_hash(tmp_path / "ray" / name) == file_hash(tmp_path / "one" / name)
    assert not list((tmp_path / "ray/store").glob(".run-*"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_stage_outlives_the_run_and_the_next_one_resumes(
    tree: dict[str, Any], tmp_path: Path, cluster: LocalCluster, number: signal.Signals
) -> None:
    cluster.add()
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text(yaml.safe_dump(longer(tree, 100)))
    main = "from mithridate.cli.main import main; main()"
    command = [sys.executable, "-c", main, "run", str(recipe), "--out", str(out)]
    run = subprocess.Popen(
        [*command, "--engine", "ray", "--ray-address", cluster.address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background ignores it
    )
    while not list(out.glob(f"store/alignment-*.part/checkpoint-*/{MANIFEST}")):
        assert run.poll() is None, run.communicate()
        time.sleep(0.1)
    assert stage_processes()
    os.killpg(run.pid, number)
    _, errors = run.communicate(timeout=60)
    if number == signal.SIGINT:
        assert not stage_processes()
        assert run.returncode == 130
        assert errors == "mithridate: stopped; finished stages are kept, run the same command again to resume\n"
    assert none_left()
    assert bool(list(out.glob("store/.run-*"))) == (number == signal.SIGKILL)
    mi.run(recipe, out)
    assert len(resumed(out)) == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stage_that_loses_worker_after_worker_ends_the_run(
    tree: dict[str, Any], tmp_path: Path, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killer(Told):
        def started(self, node: StageNode) -> None:
            super().started(node)
            for process in stage_processes():
                process.kill()

    cluster.add()
    told = Killer()
    with pytest.raises(MithridateError, match="lost 3 workers without coming a step further"):
        mi.run(longer(tree), tmp_path, engine="ray", ray_address=cluster.address, monitor=told)
    assert told.said == [("started", "alignment"), ("lost", "alignment")] * 2 + [("started", "alignment")]
    # A cluster without a node that could go on is not waited for without an end.
    monkeypatch.setattr(ray_pool, "NO_NODE", 1.0)
    monkeypatch.setattr(ray_pool, "_LOOK", 0.5)
    told = Told("alignment", 3, cluster.clear)
    with pytest.raises(MithridateError, match="the Ray cluster has had no node with 1 CPUs"):
        mi.run(longer(tree), tmp_path, engine="ray", ray_address=cluster.address, monitor=told)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nodes_are_asked_before_any_work(tree: dict[str, Any], tmp_path: Path, cluster: LocalCluster) -> None:
    def refused(tree: dict[str, Any]) -> str:
        with pytest.raises(UsageError) as caught:
            mi.run(tree, tmp_path / "out", engine="ray", ray_address=cluster.address)
        assert not list((tmp_path / "out/store").glob("alignment-*"))
        assert not list((tmp_path / "out/store").glob(".run-*"))
        return str(caught.value)

    assert "no node of the Ray cluster can take a stage, which needs 1 CPUs" in refused(tree)
    cluster.add()
    assert "needs 64 CPUs" in refused(tree | {"threads": 64})
    (tmp_path / "path").mkdir()
    cluster.add(environment={"PYTHONPATH": broken_package(tmp_path / "path")})
    assert "mithridate cannot be imported there (none here)" in refused(tree)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there are GPUs, and none has to be made up")
def test_in_a_cluster_with_gpus_a_stage_has_its_own_or_does_not_run(
    tree: dict[str, Any], tmp_path: Path, cluster: LocalCluster
) -> None:
    cluster.add(gpus=1)
    with pytest.raises(UsageError, match="needs 2 CPUs and 2 GPUs"):
        mi.run(tree, tmp_path, engine="ray", ray_address=cluster.address, launch=2)
    with pytest.raises(UsageError, match="Ray has reserved 1 GPUs, of which torch sees 0"):
        mi.run(tree, tmp_path, engine="ray", ray_address=cluster.address)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stage_is_shared_by_processes_of_a_node(tree: dict[str, Any], tmp_path: Path, cluster: LocalCluster) -> None:
    cluster.add(cpus=2)
    mi.run(tree, tmp_path / "ray", engine="ray", ray_address=cluster.address, launch=2, jobs=1)
    mi.run(tree, tmp_path / "one", launch=2)
    assert file_hash(tmp_path / "ray" / WEIGHTS) == file_hash(tmp_path / "one" / WEIGHTS)


# What is told of a cluster that is not there.


def test_a_run_that_is_finished_needs_no_cluster(tree: dict[str, Any], tmp_path: Path) -> None:
    mi.run(tree, tmp_path)
    effort = mi.run(tree, tmp_path, engine="ray", ray_address=NOBODY).effort
    assert effort is not None
    assert effort.made == 0


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (NOBODY, "no Ray cluster can be used at 127.0.0.2:1 "),
        ("ray://head:10001", "must be HOST:PORT"),
        ("http://head:8265", "must be HOST:PORT"),
        ("head", "must be HOST:PORT"),
    ],
)
def test_a_wrong_address_is_told_at_once(tree: dict[str, Any], tmp_path: Path, address: str, said: str) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'ray[default]')")
    start = time.monotonic()
    with pytest.raises(UsageError, match=said):
        mi.run(tree, tmp_path, engine="ray", ray_address=address)
    assert time.monotonic() - start < 30


def test_the_extra_is_named_where_it_lacks(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"install the extra ray, or: pip install 'ray\[default\]'"):
        mi.run(tree, tmp_path, engine="ray")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"engine": "dask"}, "engine is 'dask'; it must be one of: local, ray"),
        ({"ray_address": NOBODY}, "ray_address is given and engine is local"),
        ({"jobs": 0}, "jobs is 0"),
    ],
)
def test_what_no_engine_reads_is_refused(tree: dict[str, Any], tmp_path: Path, given: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        mi.run(tree, tmp_path, **given)


# What a node checks.


@pytest.fixture
def place(tmp_path: Path) -> RunPlace:
    (tmp_path / "mark").write_text("t", encoding="utf-8")
    return RunPlace(str(tmp_path), "mark", "t", str(tmp_path), {}, code_versions())


def test_a_node_with_the_same_store_and_code_shows_that_it_writes(place: RunPlace, tmp_path: Path) -> None:
    check_node(place, "reply")
    assert (tmp_path / "reply").read_text() == "t"


def test_a_node_with_other_code_says_what_differs(place: RunPlace) -> None:
    older = place._replace(versions={**place.versions, "torch": "1.0", "code": "0" * 64})
    with pytest.raises(UsageError, match=r"other code \(torch .*, here 1\.0, code .*, here 000000000000\)"):
        check_node(older)


def test_a_node_that_does_not_see_the_store_says_so(place: RunPlace) -> None:
    with pytest.raises(
        UsageError, match=r"cannot use /nowhere \(No such file or directory\); give --out a folder that"
    ):
        check_node(place._replace(store="/nowhere"))
    with pytest.raises(UsageError, match="is another folder"):
        check_node(place._replace(token="of another run"))


def test_a_node_with_another_model_does_no_stage(tree: dict[str, Any], tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    mi.run(tree, tmp_path)
    recipe = make_recipe(tree)
    plan = Plan(recipe, Inputs(recipe, Path(), store.folder / "inputs"))
    tasks = [StageTask(node, plan.ancestors(node)) for node in plan.nodes.values()]
    for task in tasks:
        _check_inputs(task, store)
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"w")
    for task in tasks:
        moved = task.node.model_copy(update={"job": task.node.job.model_copy(update={"model": str(other)})})
        first = [one.model_copy(update={"job": moved.job}) for one in task.ancestors[:1]]
        with pytest.raises(UsageError, match="missing there or is another one"):
            _check_inputs(StageTask(moved, [*first, *task.ancestors[1:]]), store)


def test_losses_count_only_as_long_as_a_stage_comes_no_further(tree: dict[str, Any], tmp_path: Path) -> None:
    recipe = make_recipe(tree)
    node = next(iter(Plan(recipe, Inputs(recipe, Path(), tmp_path)).nodes.values()))
    attempt, counted = StageAttempt(StageTask(node, [])), []
    for steps in (0, 0, 5, 5, 9):
        attempt.steps = steps
        attempt.lost()
        counted.append(attempt.losses)
    assert counted == [1, 2, 1, 2, 1]
    assert attempt.number == 6


def test_progress_is_told_now_and_then_and_at_the_end() -> None:
    told: list[int] = []
    report = throttled(lambda done, total: told.append(done))
    for done in range(1, 1001):
        report(done, 1000)
    assert told[0] == 1
    assert told[-1] == 1000
    assert len(told) < 500
