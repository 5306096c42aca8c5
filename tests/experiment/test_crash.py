"""A run killed in the middle of any stage goes on and ends with the same bytes; a full disk loses nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

import mithridate as mi
from mithridate.errors import MithridateError, UsageError
from mithridate.experiment.engine import run
from mithridate.experiment.jobs import StageNode
from mithridate.experiment.monitor import Monitor
from mithridate.experiment.store import Store
from mithridate.files import file_hash
from mithridate.training.state import verify
from tests.helpers.processes import exit_code
from tests.matrix.row import thinned


class Killer(Monitor):
    """Kills this process at a step of a stage; step 0 is its start."""

    def __init__(self, stage: str, step: int) -> None:
        self.place = (stage, step)

    def started(self, node: StageNode) -> None:
        self.progressed(node, 0, 0)

    def progressed(self, node: StageNode, done: int, total: int) -> None:
        if (node.stage, done) == self.place:
            os.kill(os.getpid(), signal.SIGKILL)


def run_and_be_killed(tree: dict[str, Any], folder: Path, stage: str, step: int) -> None:
    run(tree, folder, monitor=Killer(stage, step))


DEFENDED = {
    "name": "undefended",
    "alignment": "antibody_alignment",
    "finetuning": "antibody_tuning",
    "posttuning": [{"method": "panacea", "radius": 0.5}],
}


KILLED_AT = [("alignment", 3), ("finetuning", 2), ("posttuning", 0), ("evaluation", 1)]


@pytest.mark.parametrize("killed_at", thinned(KILLED_AT, KILLED_AT[1:2]), ids=lambda place: f"{place[0]}-{place[1]}")
def test_killed_runs_end_with_the_same_bytes(tree: dict[str, Any], tmp_path: Path, killed_at: tuple[str, int]) -> None:
    stage, step = killed_at
    tree["variants"] = [DEFENDED]
    assert exit_code(run_and_be_killed, tree, tmp_path / "killed", stage, step) == -signal.SIGKILL
    assert not (tmp_path / "killed/results.json").exists()
    mi.run(tree, tmp_path / "killed")
    mi.run(tree, tmp_path / "straight")
    name = "variants/undefended/seed-0/model.safetensors"
    assert file_hash(tmp_path / "killed" / name) == file_hash(tmp_path / "straight" / name)
    resumed = [r["resumed_from"] for r in _records(tmp_path / "killed") if r.get("resumed_from")]
    assert bool(resumed) == (stage in ("alignment", "finetuning"))


@pytest.mark.slow
def test_no_worker_outlives_a_killed_run(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["alignment"]["epochs"] = 500
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree))
    script = tmp_path / "run.py"
    script.write_text("import sys, mithridate\nif __name__ == '__main__': mithridate.run(*sys.argv[1:], jobs=2)")
    run = subprocess.Popen([sys.executable, str(script), str(recipe), str(tmp_path / "out")])
    parent = psutil.Process(run.pid)
    while not list((tmp_path / "out").glob("store/alignment-*.part/checkpoint-*")):
        assert run.poll() is None
        time.sleep(0.1)
    workers = parent.children(recursive=True)
    assert len(workers) >= 2
    run.kill()
    run.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive


def _records(folder: Path) -> list[dict[str, Any]]:
    import json

    return [json.loads(path.read_text()) for path in (folder / "store").glob("*/result.json")]


def test_a_full_disk_gives_one_sentence_and_keeps_what_is_finished(tree: dict[str, Any], tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=250k", "tmpfs", str(small)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        with pytest.raises(MithridateError, match="no space left to write"):
            mi.run(tree, small / "out")
        finished = [path.name for path in (small / "out/store").iterdir() if path.is_dir() and "." not in path.name]
        assert not (small / "out/results.json").exists()
        for name in finished:
            if name != "inputs":
                verify(small / "out/store" / name)
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        mi.run(tree, small / "out")
        assert (small / "out/results.json").exists()
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def test_two_runs_do_not_share_a_folder(tree: dict[str, Any], tmp_path: Path) -> None:
    with Store(tmp_path / "store").locked(), pytest.raises(UsageError, match="another run uses"):
        mi.run(tree, tmp_path)


def test_a_launcher_with_several_processes_is_refused(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="one process"):
        mi.run(tree, tmp_path)
