"""The store: one look at each stage's bytes, typed records, one run at a time; and settings that reach it."""

import json
import math
import os
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import mithridate as mi
from mithridate.errors import CheckpointError, MithridateError, RecipeError
from mithridate.experiment import store as store_module
from mithridate.experiment.identity import identity_of
from mithridate.experiment.inputs import Inputs
from mithridate.experiment.jobs import EvaluationJob
from mithridate.experiment.plan import Plan
from mithridate.experiment.recipe_file import make_recipe
from mithridate.experiment.recipe_parts import JudgeSettings
from mithridate.experiment.stage_records import TrainingRecord
from mithridate.files import write_json
from mithridate.training import state

THREE = [
    {"name": "undefended"},
    {"name": "half", "posttuning": {"method": "panacea", "radius": 0.5}},
    {"name": "pruned", "posttuning": {"method": "antidote", "mask_ratio": 0.2}},
]


def test_a_stored_stage_is_verified_once(tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three variants at two seeds share one alignment: its files are hashed once per run, not once per use."""
    tree |= {"variants": THREE, "seeds": [0, 1], "save": "none"}
    verified: Counter[str] = Counter()

    def counted(folder: Path) -> None:
        verified[folder.name] += 1
        state.verify(folder)

    monkeypatch.setattr(store_module, "verify", counted)
    mi.run(tree, tmp_path)
    assert not verified  # what this process has just written and sealed
    mi.run(tree, tmp_path)
    stored = {path.name for path in (tmp_path / "store").iterdir() if path.is_dir() and path.name != "inputs"}
    assert set(verified) == stored
    assert set(verified.values()) == {1}
    assert sum(name.startswith("alignment") for name in verified) == 1


def keys(tree: dict[str, Any], folder: Path) -> dict[str, str]:
    """Keys of the planned stages, by stage."""
    recipe = make_recipe(tree)
    return {node.stage: key for key, node in Plan(recipe, Inputs(recipe, folder, folder / "inputs")).nodes.items()}


def test_what_is_named_by_path_alone_counts_by_its_content(tree: dict[str, Any], tmp_path: Path) -> None:
    """A template or a judge that is edited in place must not leave old figures under the same key."""
    template, judge = tmp_path / "chat.jinja", tmp_path / "judge"
    judge.mkdir()
    (judge / "model.safetensors").write_bytes(b"weights")
    template.write_text("one")
    tree |= {"template": str(template)}
    tree["evaluation"]["judge"] = {"kind": "classifier", "model": str(judge)}
    first = keys(tree, tmp_path)
    assert keys(tree, tmp_path) == first
    (judge / "model.safetensors").write_bytes(b"other weights")
    judged = keys(tree, tmp_path)
    assert {stage for stage in first if judged[stage] != first[stage]} == {"evaluation"}
    template.write_text("two")
    laid_out = keys(tree, tmp_path)
    assert not {stage for stage in first if laid_out[stage] == judged[stage]}


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("place", ["first", "further"])
def test_every_judge_on_disk_counts_by_its_content(
    tree: dict[str, Any], tmp_path: Path, place: str, weights: str
) -> None:
    (tmp_path / weights).write_bytes(b"weights")
    recipe = make_recipe(tree)
    nodes = Plan(recipe, Inputs(recipe, tmp_path, tmp_path / "inputs")).nodes.values()
    (plain,) = [node.job for node in nodes if isinstance(node.job, EvaluationJob)]
    local = JudgeSettings(kind="classifier", model=str(tmp_path))
    job = plain.model_copy(update={"judge": local} if place == "first" else {"further_judges": (plain.judge, local)})
    first = identity_of(job, None)
    (tmp_path / "README.md").write_text("changed")
    assert identity_of(job, None) == first
    (tmp_path / weights).write_bytes(b"other weights")
    assert identity_of(job, None) != first


def test_a_record_that_is_none_is_refused(tree: dict[str, Any], tmp_path: Path) -> None:
    mi.run(tree, tmp_path)
    folder = next((tmp_path / "store").glob("evaluation-*"))
    record = json.loads((folder / "result.json").read_text())
    del record["harmful"]
    (folder / "result.json").write_text(json.dumps(record))
    state.seal(folder)
    with pytest.raises(
        CheckpointError,
        match=r"result\.json does not hold this stage's record; delete .* and run the same command again to redo it",
    ):
        mi.run(tree, tmp_path)


def test_the_lock_goes_with_the_process_that_held_it(tree: dict[str, Any], tmp_path: Path) -> None:
    def hold() -> None:
        store_module.Store(tmp_path / "store").locked().__enter__()
        os._exit(9)

    holder = get_context("fork").Process(target=hold)  # forked, since a fresh one would import everything for seconds
    holder.start()
    holder.join()
    assert holder.exitcode == 9
    with store_module.Store(tmp_path / "store").locked():
        pass


@pytest.mark.parametrize(
    ("place", "key"),
    [
        (("streams", "safe"), "streams.safe"),
        (("streams", "user", "benign"), "streams.user.benign"),
        (("evaluation", "task", "rows"), "evaluation.task.rows"),
        (("streams", "refusals"), "streams.refusals"),
        (("model",), "model"),
    ],
)
@pytest.mark.parametrize("value", [None, ""])
def test_an_unset_data_folder_is_named_with_the_recipes_key(
    tree: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: tuple[str, ...],
    key: str,
    value: str | None,
) -> None:
    if value is None:
        monkeypatch.delenv("MITHRIDATE_DATA", raising=False)
    else:
        monkeypatch.setenv("MITHRIDATE_DATA", value)
    node = tree
    for name in place[:-1]:
        node = node[name]
    node[place[-1]] = "$MITHRIDATE_DATA/rows.jsonl"
    with pytest.raises(MithridateError, match=rf"^{key}: \$MITHRIDATE_DATA/rows\.jsonl uses .*, which is not set; set"):
        mi.run(tree, tmp_path)


def test_nothing_of_the_package_knows_the_folder_of_our_data() -> None:
    package = Path(mi.__file__).parent
    assert not [path for path in package.rglob("*.py") if "../shared" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("change", [{"precision": "float64"}, {"dtype": "bf16"}])
def test_types_of_weights_are_checked(tree: dict[str, Any], change: dict[str, str]) -> None:
    with pytest.raises(RecipeError, match="must be"):
        make_recipe(tree | change)


def test_no_module_needs_a_posix_system() -> None:
    """macOS and Windows have no fcntl of our kind, no resource and no fork to rely on; the service is for servers."""
    package = Path(mi.__file__).parent
    for path in (path for path in package.rglob("*.py") if path.relative_to(package).parts[0] != "service"):
        lines = path.read_text(encoding="utf-8").splitlines()
        imported = {line.split()[1] for line in lines if line.startswith(("import ", "from "))}
        assert not imported & {"fcntl", "resource", "pwd", "grp", "termios"}, path


def test_what_is_not_finite_comes_back_from_the_store(tmp_path: Path) -> None:
    found = TrainingRecord.model_validate(
        {
            "cost": {"seconds": 1.0, "passes": {"forward": 1, "backward": 1}, "peak_bytes": 1},
            "activity": {"entropy": float("nan"), "steps": 3},
            "losses": [[10, float("nan")], [20, float("inf")]],
            "dropped_rows": 0,
            "resumed_from": None,
        }
    )
    write_json(tmp_path / "result.json", found.model_dump(mode="json"))
    again = TrainingRecord.model_validate_json((tmp_path / "result.json").read_bytes())
    assert again.activity["steps"] == 3
    assert isinstance(again.activity["steps"], int)
    assert math.isnan(again.activity["entropy"])
    assert math.isnan(again.losses[0].loss)
    assert math.isinf(again.losses[1].loss)
