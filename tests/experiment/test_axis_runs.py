"""The shipped tiny comparison as run: cells, files, sharing, and going on after a kill."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mithridate.compare import compare
from mithridate.compare.results import Comparison
from mithridate.errors import UsageError
from mithridate.pipeline.store import Store
from tests.compare.conftest import TINY, Ran

SMALL = ["pipelines=[undefended, random]", "axes={epochs: [1, 2]}", "seeds=[0]"]

KILLED = """
import os, signal, sys
from mithridate.compare import compare

def show(state):
    if state.done == int(sys.argv[3]) and state.running:
        os.kill(os.getpid(), signal.SIGKILL)

compare(sys.argv[1], sys.argv[2], overrides=sys.argv[4:], show=show)
"""


def test_every_cell_is_measured_once(ran: Ran) -> None:
    comparison = ran.comparison
    names = {pipeline.name for pipeline in comparison.pipelines}
    assert names == {"undefended", "antibody", "antidote", "panacea", "flat", "random"}
    assert comparison.axes == {"learning_rate": [0.001, 0.004], "epochs": [1, 2]}
    settings = {cell.setting for cell in comparison.cells}
    assert len(settings) == 3  # the recipe's own value is on both axes
    keys = [(cell.pipeline, cell.setting, cell.seed) for cell in comparison.cells]
    assert len(keys) == len(set(keys)) == 6 * 3 * 2
    for cell in comparison.cells:
        assert cell.harmful_score.n == 20
        assert cell.harmful_score.low <= cell.harmful_score.value <= cell.harmful_score.high
        assert (cell.row_weight_auc is not None) == (cell.pipeline == "antibody")
        assert (cell.distance is not None) == (cell.pipeline in ("antidote", "panacea", "random"))


def test_cells_share_their_stages(ran: Ran) -> None:
    folders = [path.name.rsplit("-", 1)[0] for path in (ran.folder / "store").iterdir() if path.is_dir()]
    assert folders.count("alignment") == 2
    assert folders.count("finetuning") == 3 * 2 * 3  # undefended, antidote, panacea and random share theirs
    assert folders.count("posttuning") == 3 * 2 * 3
    cells = len({cell.evaluation for cell in ran.comparison.cells})
    assert cells == 36
    assert folders.count("evaluation") == cells + 2  # each aligned model once, for the helpfulness it had
    assert ran.comparison.stages == ran.comparison.run.made == 2 + 18 + 18 + 38


def test_an_axis_reaches_the_stages(ran: Ran) -> None:
    """Another learning rate gives another model."""
    base = ran.comparison.base
    moved = base.model_copy(update={"learning_rate": 0.004})
    answers = [ran.comparison.point("undefended", setting) for setting in (base, moved)]
    assert answers[0] is not None
    assert answers[1] is not None
    assert answers[0].finetune_accuracy != answers[1].finetune_accuracy


def test_the_file_is_the_comparison(ran: Ran) -> None:
    tree = json.loads((ran.folder / "comparison.json").read_text())
    assert Comparison.model_validate(tree) == ran.comparison
    assert tree["run"]["store_bytes"] == sum(p.stat().st_size for p in (ran.folder / "store").rglob("*") if p.is_file())
    assert [claim["verdict"] for claim in tree["claims"]] == ["not measured"] * 4
    assert all("needs 5 seeds" in claim["sentence"] for claim in tree["claims"])


def test_a_second_call_does_nothing_twice_and_drops_stale_axes(ran: Ran, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (ran.folder / "store").rglob("result.json")}
    out = tmp_path / "out"
    out.mkdir()
    (out / "store").symlink_to(ran.folder / "store")
    for name in ("tables", "plots"):
        (out / name).mkdir()
    (out / "tables/size.csv").write_text("of an earlier call")
    (out / "tables/mine.csv").write_text("of somebody else")
    again = compare(TINY, out)
    assert again.run.made == 0
    assert again.model_dump(exclude={"run"}) == ran.comparison.model_dump(exclude={"run"})
    assert before == {path: path.stat().st_mtime_ns for path in (ran.folder / "store").rglob("result.json")}
    assert not (out / "tables/size.csv").exists()
    assert (out / "tables/mine.csv").exists()


def test_a_killed_comparison_goes_on_where_it_stopped(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(TINY), str(tmp_path / "killed"), "4", *SMALL]
    killed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "killed/comparison.json").exists()
    resumed = compare(TINY, tmp_path / "killed", overrides=SMALL)
    straight = compare(TINY, tmp_path / "straight", overrides=SMALL)
    assert straight.run.made == straight.stages == 10
    assert resumed.run.made == straight.stages - 4
    written = [json.loads((tmp_path / name / "comparison.json").read_text()) for name in ("killed", "straight")]
    for tree in written:
        del tree["run"]
    assert written[0] == written[1]


def test_two_comparisons_do_not_share_a_folder(tmp_path: Path) -> None:
    with Store(tmp_path / "store").locked(), pytest.raises(UsageError, match="another run uses"):
        compare(TINY, tmp_path)
