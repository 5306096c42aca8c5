"""Repairs that train or search, in a recipe: their rows, their keys, their cost, and a kill in the middle."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import mithridate as mi
from mithridate.experiment.inputs import Inputs
from mithridate.experiment.jobs import RepairJob
from mithridate.experiment.plan import Plan
from mithridate.experiment.recipe_file import make_recipe
from mithridate.files import file_hash

ONCE = {"method": "realign", "learning_rate": 0.01}


def _repair(tree: dict[str, Any], folder: Path, choice: dict[str, Any]) -> tuple[str, RepairJob]:
    """Key and job of the only repair of a plan, without alignment, whose rows would be in every key."""
    tree = tree | {"variants": [{"name": "undefended", "alignment": "none", "posttuning": choice}]}
    recipe = make_recipe(tree)
    nodes = Plan(recipe, Inputs(recipe, Path(), folder)).nodes.values()
    (node,) = [node for node in nodes if isinstance(node.job, RepairJob)]
    assert isinstance(node.job, RepairJob)
    return node.key, node.job


@pytest.mark.parametrize(
    ("choice", "streams"),
    [
        ({"method": "panacea"}, {"harmful"}),
        ({"method": "panacea", "strength": "auto"}, {"harmful", "safe"}),
        ({"method": "antidote", "mask_ratio": "auto"}, {"harmful", "safe"}),
        ({"method": "wise_ft", "strength": "auto"}, {"safe"}),
        (ONCE, {"safe"}),
        (ONCE | {"inner": "booster"}, {"safe", "harmful"}),
        (ONCE | {"inner": "antibody_alignment"}, {"safe", "harmful", "refusals"}),
    ],
)
def test_a_repair_is_given_what_it_heeds(
    tree: dict[str, Any], tmp_path: Path, choice: dict[str, Any], streams: set[str]
) -> None:
    _, job = _repair(tree, tmp_path, choice)
    assert {name for name, rows in job.provider if rows is not None} == streams


@pytest.mark.parametrize(("strength", "changes"), [("auto", True), (0.5, False)])
def test_safe_rows_are_part_of_the_key_where_they_are_heeded(
    tree: dict[str, Any], tmp_path: Path, strength: Any, changes: bool
) -> None:
    choice = {"method": "panacea", "strength": strength}
    key, _ = _repair(tree, tmp_path / "one", choice)
    fewer = tree | {"streams": tree["streams"] | {"safe": {"source": tree["streams"]["safe"], "size": 9}}}
    assert (_repair(fewer, tmp_path / "two", choice)[0] != key) == changes


def test_a_realigned_variant_states_its_cost_and_is_done_once(tree: dict[str, Any], tmp_path: Path) -> None:
    searched = {"method": "realign", "budget": 5.0, "safe_budget": 5.0}
    tree["variants"] += [
        {"name": "once", "posttuning": ONCE | {"inner": "booster", "step_rows": 4, "epochs": 3}},
        {"name": "searched", "posttuning": searched},
        {"name": "twice", "posttuning": [ONCE, {"method": "panacea", "radius": 0.1}]},
    ]
    first = mi.run(tree, tmp_path)
    assert not first.failures
    once, auto, twice = (variant.cost["posttuning"] for variant in first.variants[1:])
    assert (once.passes, once.rows) == ({"forward": 3, "backward": 3}, 48)
    assert auto.rows == 4 * 10 * 8  # four rates, ten steps of the 8 rows that are not kept aside
    assert twice.rows == 10 * 16
    assert twice.passes == {"forward": 2, "backward": 2}
    assert first.variants[1].activity["realign.extra_gradient_norm"] > 0
    assert [point.dose for point in first.variants[2].dose_curves[0].points] == [3e-5, 1e-4, 3e-4, 1e-3]
    assert mi.run(tree, tmp_path).effort.made == 0


@pytest.mark.parametrize(
    ("length", "given", "left"),
    [
        pytest.param(192, {}, 16, marks=pytest.mark.slow),
        (118, {}, 8),
        (118, {"max_length": 192}, 16),
        pytest.param(118, {"max_length": None}, 16, marks=pytest.mark.slow),
        pytest.param(700, {}, 16, marks=pytest.mark.slow),
    ],
)
def test_a_repair_reads_rows_as_far_as_the_recipe_does(
    tree: dict[str, Any], tmp_path: Path, length: int, given: dict[str, Any], left: int
) -> None:
    """Prompts of safe rows have 108 to 126 tokens, or 499 more."""
    safe = tmp_path / "safe.jsonl"
    text = (Path(tree["streams"]["safe"])).read_text(encoding="utf-8")
    safe.write_text(text.replace("how do", "how " * 500 + "do") if length == 700 else text, encoding="utf-8")
    tree["streams"]["safe"] = str(safe)
    tree |= {
        "max_length": length,
        "variants": [{"name": "undefended", "alignment": "none", "posttuning": ONCE | given}],
    }
    (variant,) = mi.run(tree, tmp_path / "out").variants
    assert variant.activity["realign.safe_rows"] == left


KILLED = """
import os, signal, sys
from mithridate.experiment.engine import run
from mithridate.repair.realignment import DefendedTrainer, Realignment

def killing(trainer, *args, steps=[]):
    steps.append(1)
    if len(steps) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(trainer, *args)

def repairing(*args):
    DefendedTrainer.training_step = killing
    return train(*args)

plain, train = DefendedTrainer.training_step, Realignment.run
Realignment.run = repairing
run(sys.argv[1], sys.argv[2])
"""


@pytest.mark.slow
def test_killed_in_the_middle_a_run_goes_on_from_the_stage_before(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["variants"] = [{"name": "undefended", "posttuning": ONCE}]
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "killed"
    recipe.write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-c", KILLED, str(recipe), str(out)]
    killed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (tuned,) = (out / "store").glob("finetuning-*/adapter/adapter_model.safetensors")
    before = file_hash(tuned)
    assert not [path for path in (out / "store").glob("posttuning-*") if path.suffix != ".part"]
    effort = mi.run(recipe, out).effort
    assert effort is not None
    assert effort.made == 2  # the repair and the evaluation
    assert file_hash(tuned) == before
    mi.run(recipe, tmp_path / "straight")
    name = "variants/undefended/seed-0/model.safetensors"
    assert file_hash(out / name) == file_hash(tmp_path / "straight" / name)
