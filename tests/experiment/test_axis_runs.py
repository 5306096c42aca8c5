"""The shipped tiny axes as run: cells, files, sharing, and going on after a kill."""

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mithridate as mi
from mithridate.cli.main import main
from mithridate.files import file_hash
from mithridate.report.results import Results
from tests.experiment.conftest import TINY, AxisRun

SMALL = ["axes={epochs: [1, 2]}", "seeds=[0]", "variants=[{name: undefended}]"]

KILLED = """
import os, signal, sys
from mithridate.experiment.engine import run
from mithridate.experiment.monitor import Monitor

class Killer(Monitor):
    done = 0

    def finished(self, node):
        self.done += 1

    def started(self, node):
        if self.done == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)

run(sys.argv[1], sys.argv[2], overrides=sys.argv[4:], monitor=Killer())
"""


def comparable(results: Results) -> dict[str, object]:
    """What two calls of the same run must agree on."""
    tree = results.model_dump(mode="json", exclude={"created", "command", "effort"})
    for variant in tree["variants"]:
        for cost in variant["cost"].values():
            del cost["seconds"], cost["peak_bytes"]
    return tree


def weights(folder: Path, stage: str) -> list[str]:
    """Hashes of the weights that a run's stages of a kind have left."""
    return [file_hash(path) for path in folder.glob(f"store/{stage}-*/**/*.safetensors")]


def test_it_prints_the_table_the_claims_and_where_the_page_lies(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], axis_run: AxisRun, tmp_path: Path
) -> None:
    (tmp_path / "store").symlink_to(axis_run.folder / "store")
    changes = [word for override in axis_run.overrides for word in ("--set", override)]
    monkeypatch.setattr(sys, "argv", ["mithridate", "run", str(TINY), *changes, "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    shown = " ".join(capsys.readouterr().out.split())
    assert f"report: {tmp_path / 'report.html'}" in shown
    assert "store: " in shown
    for claim in axis_run.results.claims:
        assert f"{claim.name}: {claim.verdict}. {claim.sentence}" in shown
    command = json.loads((tmp_path / "results.json").read_text())["command"]
    assert shlex.split(command) == sys.argv


def test_every_cell_is_measured_once(axis_run: AxisRun) -> None:
    results = axis_run.results
    names = [variant.name for variant in results.variants]
    assert names == axis_run.variants
    assert set(names) >= {"undefended", "antibody", "panacea"}
    assert results.axes == {"learning_rate": [0.001, 0.004], "epochs": [1, 2]}
    settings = {cell.setting for cell in results.cells}
    assert len(settings) == 3  # the recipe's own value is on both axes
    keys = [(cell.variant, cell.setting, cell.seed) for cell in results.cells]
    assert len(keys) == len(set(keys)) == len(names) * 3 * 2
    for cell in results.cells:
        assert cell.harmful_score.n == 20
        assert cell.harmful_score.low <= cell.harmful_score.value <= cell.harmful_score.high
        assert cell.harmful_score.seed_low is None
        assert (cell.row_weight_auc is not None) == (cell.variant == "antibody")
        assert (cell.distance is not None) == (cell.variant in ("antidote", "panacea", "random"))
        assert cell.helpfulness is not None
        assert cell.helpfulness.n == 8


def test_the_points_at_the_recipes_setting_are_the_variants_figures(axis_run: AxisRun) -> None:
    results = axis_run.results
    assert results.base is not None
    for variant in results.variants:
        point = results.point(variant.name, results.base)
        assert point is not None
        for name in ("harmful_score", "finetune_accuracy", "over_refusal"):
            assert getattr(point, name) == getattr(variant, name)
        assert variant.harmful_score.seed_low is not None


def test_cells_share_their_stages(axis_run: AxisRun) -> None:
    folders = [path.name.rsplit("-", 1)[0] for path in (axis_run.folder / "store").iterdir() if path.is_dir()]
    assert folders.count("alignment") == 2
    # Undefended, antidote, panacea and random share theirs.
    trained = len({"antibody", "flat"} & set(axis_run.variants)) + 1
    assert folders.count("finetuning") == trained * 2 * 3
    repaired = len({"antidote", "panacea", "random"} & set(axis_run.variants))
    assert folders.count("posttuning") == repaired * 2 * 3
    cells = len({cell.evaluation for cell in axis_run.results.cells})
    assert cells == len(axis_run.variants) * 2 * 3
    assert folders.count("evaluation") == cells + 2  # each aligned model once, for the helpfulness it had
    effort = axis_run.results.effort
    assert effort is not None
    assert effort.stages == effort.made == 2 + (trained + repaired) * 6 + cells + 2


def test_an_axis_reaches_the_stages(axis_run: AxisRun) -> None:
    """Another learning rate, number of epochs or seed gives another model."""
    found = weights(axis_run.folder, "finetuning")
    trainings = len({"undefended", "antibody", "flat"} & set(axis_run.variants))  # all others repair the first's model
    assert len(found) == trainings * len({cell.setting for cell in axis_run.results.cells}) * len(
        axis_run.results.seeds
    )
    assert len(set(found)) == len(found)


def test_one_file_and_one_page_hold_everything(axis_run: AxisRun) -> None:
    tree = json.loads((axis_run.folder / "results.json").read_text())
    assert Results.model_validate(tree) == axis_run.results
    assert [claim["verdict"] for claim in tree["claims"]] == ["not measured"] * 4
    said = {claim["name"]: claim["sentence"] for claim in tree["claims"]}
    assert "needs 5 seeds" in said["Row weights find harmful rows"]
    if not axis_run.overrides:  # no variant that the other claims are about is left out
        assert all("needs 5 seeds" in sentence for sentence in said.values())
    assert not (axis_run.folder / "comparison.json").exists()
    page = (axis_run.folder / "report.html").read_text()
    for words in ("By learning rate", "By epochs", "Claims", "Proof of activity", "Provenance"):
        assert f"<h2>{words}</h2>" in page
    assert {path.name for path in (axis_run.folder / "plots").iterdir()} == {
        "learning_rate.svg", "epochs.svg", "pareto.svg", "claims.svg"
    }  # fmt: skip


def test_aligned_models_stand_in_results_and_in_every_table(axis_run: AxisRun) -> None:
    aligned = axis_run.results.aligned
    assert {model.name for model in aligned} == {"aligned: sft", "aligned: antibody_alignment"}
    assert aligned[0].variants == [name for name in axis_run.variants if name not in ("antibody", "flat")]
    assert all(model.harmful_score.n == 20 and model.helpfulness is not None for model in aligned)
    tables = [axis_run.folder / f"tables/{name}.md" for name in ("learning_rate", "epochs", "pareto")]
    assert "\naligned: sft,harmful_score," in "\n" + (axis_run.folder / "tables/pareto.csv").read_text()
    for text in [path.read_text() for path in tables] + [mi_markdown(axis_run.results)]:
        assert text.count("| aligned: antibody\\_alignment") >= 1


def mi_markdown(results: Results) -> str:
    from mithridate.report import as_markdown

    return as_markdown(results)


def test_a_second_call_does_nothing_twice_and_drops_stale_axes(axis_run: AxisRun, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (axis_run.folder / "store").rglob("result.json")}
    out = tmp_path / "out"
    out.mkdir()
    (out / "store").symlink_to(axis_run.folder / "store")
    for name in ("tables", "plots"):
        (out / name).mkdir()
    (out / "tables/size.csv").write_text("of an earlier call")
    (out / "tables/mine.csv").write_text("of somebody else")
    again = mi.run(TINY, out, overrides=axis_run.overrides)
    assert again.effort is not None
    assert again.effort.made == 0
    assert comparable(again) == comparable(axis_run.results)
    assert before == {path: path.stat().st_mtime_ns for path in (axis_run.folder / "store").rglob("result.json")}
    assert not (out / "tables/size.csv").exists()
    assert (out / "tables/mine.csv").exists()
    # A call without axes leaves no table of the earlier one.
    mi.run(TINY, out, overrides=[*axis_run.overrides, "axes={}", "seeds=[0]"])
    assert sorted(path.name for path in (*(out / "tables").iterdir(), *(out / "plots").iterdir())) == ["mine.csv"]


@pytest.mark.slow
def test_a_killed_run_over_axes_goes_on_where_it_stopped(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(TINY), str(tmp_path / "killed"), "4", *SMALL]
    killed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "killed/results.json").exists()
    resumed = mi.run(TINY, tmp_path / "killed", overrides=SMALL)
    straight = mi.run(TINY, tmp_path / "straight", overrides=SMALL)
    assert straight.effort is not None
    assert resumed.effort is not None
    assert straight.effort.made == straight.effort.stages == 6
    assert resumed.effort.made == straight.effort.stages - 4
    assert comparable(resumed) == comparable(straight)


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_alignment_along_an_axis(tree: dict[str, Any], tmp_path: Path, jobs: int) -> None:
    results = mi.run(tree | {"axes": {"alignment_epochs": [1, 2]}}, tmp_path, jobs=jobs)
    stages = [path.name.split("-")[0] for path in (tmp_path / "store").iterdir() if path.is_dir()]
    assert stages.count("alignment") == 2
    assert all(results.point("undefended", at) is not None for at in results.along("alignment_epochs"))
    for stage in ("alignment", "finetuning"):
        assert len(set(weights(tmp_path, stage))) == 2
    assert "By alignment epochs" in (tmp_path / "report.html").read_text()
