"""``mithridate run`` as a user meets it: lines, JSON, exit codes, Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from mithridate.cli.main import main
from mithridate.cli.progress import RunDisplay
from mithridate.experiment import engine
from mithridate.experiment.jobs import StageNode
from mithridate.experiment.process_context import process_context
from tests.cli.conftest import Called
from tests.experiment.conftest import TINY, world  # noqa: F401  # fixture
from tests.helpers.tiny_world import make_tree

RUN = "from mithridate.cli.main import main\nimport sys\nif __name__ == '__main__': main()"


def written(tree: dict[str, Any], folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['mithridate', 'run', '--help']\n"
        "from mithridate.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'datasets', 'matplotlib'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "axes" in shown
    assert "--json" in shown


def test_lines_name_variant_stage_and_time_and_json_stands_alone(
    call: Called,
    capsys: pytest.CaptureFixture[str],
    world: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    tree = make_tree(world)
    tree["variants"] = [{"name": "undefended"}, {"name": "fixed", "posttuning": {"method": "panacea", "radius": 0.5}}]
    recipe, out = written(tree, tmp_path), tmp_path / "out"
    assert call("run", str(recipe), "--out", str(out), "--json") == 0
    shown = capsys.readouterr()
    summary = json.loads(shown.out)
    assert [variant["name"] for variant in summary["variants"]] == ["undefended", "fixed"]
    assert summary["failures"] == []
    assert summary["results"] == str(out / "results.json")
    full = json.loads((out / "results.json").read_text())
    assert summary["variants"][1]["harmful_score"] == full["variants"][1]["harmful_score"]
    lines = shown.err.splitlines()
    assert any(line.startswith("[00:") and "fixed · posttuning · panacea · seed 0 · done in " in line for line in lines)
    assert any("undefended · finetuning · sft · seed 0 · started" in line for line in lines)
    assert any(line.endswith("5/5 stages · about 0.0 s left") for line in lines), lines


def test_a_variant_that_cannot_act_gives_exit_code_1_and_its_reason(
    call: Called,
    capsys: pytest.CaptureFixture[str],
    world: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    tree = make_tree(world) | {"adapter": "continue"}
    tree["variants"] = [{"name": "undefended"}, {"name": "stuck", "finetuning": "salora"}]
    assert call("run", str(written(tree, tmp_path)), "--out", str(tmp_path / "out"), "--json") == 1
    shown = capsys.readouterr()
    summary = json.loads(shown.out)
    assert [variant["name"] for variant in summary["variants"]] == ["undefended"]
    assert summary["failures"][0]["variant"] == "stuck"
    assert "mithridate: stuck: salora cannot act at fine-tuning (at the recipe's setting, seed 0): SaLoRA" in shown.err
    assert "stuck · finetuning · salora · seed 0 · cannot act: SaLoRA" in shown.err
    assert "Traceback" not in shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.yaml"], "none.yaml does not exist"),
        ([str(TINY), "--set", "axes.epoch=[1]"], "unknown key 'axes.epoch'; did you mean 'epochs'?"),
        ([str(TINY), "--set", "finetuning.epochs=-1"], "finetuning.epochs"),
        ([str(TINY), "--set", "axes.size=[1]"], "axes.size = 1: "),
        ([str(TINY), "--set", "seeds"], "must be a.b=value"),
    ],
)
def test_errors_are_one_sentence(
    call: Called,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("run", *arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert not list(tmp_path.iterdir())


def run_forked(arguments: list[str], errors: Path) -> None:
    """The command in a forked process, the first of a group of its own, as a shell would start it."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
    sys.argv = ["mithridate", *arguments]
    main()


class Command:
    """A command under way, in a forked process or in a new one."""

    def __init__(self, arguments: list[str], folder: Path, forked: bool) -> None:
        self._errors = folder / "errors"
        if forked:
            self._process = process_context().Process(target=run_forked, args=(arguments, self._errors))
            self._process.start()
        else:
            script = folder / "command.py"
            script.write_text(RUN)
            with self._errors.open("w") as errors:
                self._process = subprocess.Popen(
                    [sys.executable, str(script), *arguments],
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    process_group=0,
                    # Whoever started the tests in the background of a shell had the signal ignored, and children
                    # inherit that.
                    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
                )
        self.pid: int = self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code, if it has ended."""
        forked = not isinstance(self._process, subprocess.Popen)
        return self._process.exitcode if forked else self._process.poll()

    @property
    def errors(self) -> str:
        return self._errors.read_text()


@pytest.mark.parametrize(
    ("forked", "jobs"),
    [(True, "1"), *(pytest.param(False, jobs, marks=pytest.mark.slow) for jobs in ("1", "2"))],
    ids=["forked-1", "new-1", "new-2"],
)
def test_after_ctrl_c_the_same_command_goes_on(
    world: Path,  # noqa: F811
    tmp_path: Path,
    forked: bool,
    jobs: str,
) -> None:
    """The whole process group gets the signal, as at a terminal; workers end at once and say nothing."""
    tree = make_tree(world)
    tree["finetuning"]["epochs"] = 2000
    recipe, out = written(tree, tmp_path), tmp_path / "out"
    command = Command(["run", str(recipe), "--out", str(out), "--jobs", jobs], tmp_path, forked)
    while not list(out.glob("store/finetuning-*.part/checkpoint-*")):
        assert command.code is None, command.errors
        time.sleep(0.1)
    os.killpg(command.pid, signal.SIGINT)
    until = time.monotonic() + 60
    while command.code is None and time.monotonic() < until:
        time.sleep(0.1)
    assert command.code == 130
    assert command.errors == "mithridate: stopped; finished stages are kept, run the same command again to resume\n"
    assert "Traceback" not in command.errors
    assert list(out.glob("store/alignment-*"))


@pytest.mark.parametrize("terminal", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_stage_whose_worker_was_lost_has_one_bar_and_a_line(
    world: Path,  # noqa: F811
    tmp_path: Path,
    terminal: bool,
) -> None:
    console = Console(force_terminal=terminal, width=200, file=StringIO())

    class Losing(RunDisplay):
        def started(self, node: StageNode) -> None:
            super().started(node)
            self.lost(node, "node [1] died")
            super().started(node)
            assert len(self._progress.tasks) == 2  # all stages, and this one

    with Losing(console) as display:
        engine.run(make_tree(world), tmp_path, monitor=display)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.count("undefended · alignment · sft · its worker was lost and it is begun again: node [1] died") == 1


def test_bars_are_drawn_on_a_terminal(world: Path, tmp_path: Path) -> None:  # noqa: F811
    console = Console(force_terminal=True, width=100, file=StringIO())
    with RunDisplay(console) as display:
        engine.run(make_tree(world), tmp_path, monitor=display)
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    done, planned = re.findall(r"(\d+)/(\d+)", drawn)[-1]  # of the stages; bars of single stages are gone by then
    assert done == planned != "0"
    assert "[00:00] " not in drawn
