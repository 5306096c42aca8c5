"""Every example runs as its first lines say, on a model of no skill."""

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import mithridate as mi

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SAYS = {
    "train": "trained with antibody_tuning",
    "repair": "changed ",
    "evaluate": "task accuracy ",
    "own_defense": "safe_pull: extra gradient norm ",
}
LAUNCHERS = {
    "torchrun": (["torchrun", "--standalone", "--nproc_per_node", "2"], "DDP"),
    "accelerate": (["accelerate", "launch", "--config_file", str(EXAMPLES / "two_processes.yaml")], "DDP"),
    "fsdp2": (["accelerate", "launch", "--config_file", str(EXAMPLES / "fsdp2.yaml")], "FSDP2"),
    "zero2": (["accelerate", "launch", "--config_file", str(EXAMPLES / "zero2.yaml")], "DeepSpeed"),
}
"""Launch lines, and how the weights are then held."""


@pytest.fixture(scope="module")
def model() -> str:
    return str(mi.miniature.base(size="tiny"))


def launched(command: list[str], folder: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=timeout
    )


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*SAYS, "two_processes", "tune_uploads"}


ALL = """
import runpy, sys

_, model, *paths = sys.argv
for path in paths:
    print(f"== {path}", flush=True)
    sys.argv = [path, model]
    runpy.run_path(path, run_name="__main__")
"""
"""Runs examples one after the other, since most of each alone would be the loading of libraries."""


@pytest.fixture(scope="module")
def shown(model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each example prints."""
    paths = [str(EXAMPLES / f"{name}.py") for name in SAYS]
    done = launched([sys.executable, "-c", ALL, model, *paths], tmp_path_factory.mktemp("examples"))
    assert done.returncode == 0, done.stderr[-3000:]
    parts = done.stdout.split("== ")[1:]
    return {Path(part.splitlines()[0]).stem: part for part in parts}


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(name: str, shown: dict[str, str]) -> None:
    assert SAYS[name] in shown[name]


@pytest.mark.slow
def test_of_three_uploads_the_harmless_one_is_released_and_the_harmful_one_is_not(tmp_path: Path) -> None:
    done = launched([sys.executable, str(EXAMPLES / "tune_uploads.py")], tmp_path, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "harmless: released" in done.stdout
    assert "harmful: refused" in done.stdout
    assert (tmp_path / "runs/tune-demo/harmless/model/model.safetensors").is_file()
    assert not (tmp_path / "runs/tune-demo/harmful/model").exists()


@pytest.mark.parametrize(
    "launcher",
    [pytest.param(name, marks=pytest.mark.slow) for name in LAUNCHERS],
)
def test_the_launch_lines_start_two_processes(launcher: str, model: str, tmp_path: Path) -> None:
    if launcher == "zero2" and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed: pip install -c constraints.txt '.[deepspeed]'")
    (program, *options), kind = LAUNCHERS[launcher]
    command = [str(Path(sys.executable).parent / program), *options, str(EXAMPLES / "two_processes.py"), model]
    done = launched(command, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(f"trained on 2 processes with {kind}") == 1
    assert (tmp_path / "runs" / "two" / "model" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_one_process_in_place_of_two_is_noticed(model: str, tmp_path: Path) -> None:
    done = launched([sys.executable, str(EXAMPLES / "two_processes.py"), model], tmp_path)
    assert done.returncode == 1
    assert "needs 2 processes and was started as 1" in done.stderr


def test_the_launch_lines_in_the_docs_are_those_of_the_example() -> None:
    lines = [line.strip() for line in (EXAMPLES / "two_processes.py").read_text().splitlines()]
    said = [line.removesuffix(" [MODEL]") for line in lines if line.startswith(("torchrun", "accelerate"))]
    docs = (ROOT / "docs" / "launch.md").read_text()
    assert len(said) == len(LAUNCHERS)
    for line in said:
        assert line in docs
        assert shlex.split(line)[0] in {command[0] for command, _ in LAUNCHERS.values()}
