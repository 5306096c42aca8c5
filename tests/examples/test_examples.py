"""Every example runs as its first lines say, on a model of no skill."""

import importlib.util
import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import mithridate as mi
from tests.helpers.processes import exit_code

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


def run_all(model: str, folder: Path, printed: Path) -> None:
    """Run all examples in a process that has loaded the libraries already, which would be most of each alone."""
    os.chdir(folder)
    os.dup2(os.open(printed, os.O_WRONLY | os.O_CREAT), 1)
    for name in SAYS:
        print(f"== {name}", flush=True)
        sys.argv = [str(EXAMPLES / f"{name}.py"), model]
        runpy.run_path(sys.argv[0], run_name="__main__")


@pytest.fixture(scope="module")
def shown(model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each example prints."""
    folder = tmp_path_factory.mktemp("examples")
    assert exit_code(run_all, model, folder, folder / "printed") == 0
    parts = (folder / "printed").read_text().split("== ")[1:]
    return {part.splitlines()[0]: part for part in parts}


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
