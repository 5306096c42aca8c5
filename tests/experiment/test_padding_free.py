"""Recipes whose training stages lay rows end to end: the same model, under another key."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import mithridate as mi
from mithridate.errors import RecipeError
from mithridate.experiment.identity import identity_of
from mithridate.experiment.inputs import Inputs
from mithridate.experiment.jobs import TrainingJob
from mithridate.experiment.plan import Plan
from mithridate.experiment.recipe_file import make_recipe
from tests.helpers.training import distance


def _asked(tree: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return tree | {stage: tree.get(stage, {}) | keys for stage in ("alignment", "finetuning")}


def _trainings(tree: dict[str, Any], folder: Path) -> list[TrainingJob]:
    recipe = make_recipe(tree)
    nodes = Plan(recipe, Inputs(recipe, folder, folder / "inputs")).nodes.values()
    return [node.job for node in nodes if isinstance(node.job, TrainingJob)]


def test_the_key_is_part_of_a_stage_only_where_it_is_on(tree: dict[str, Any], tmp_path: Path) -> None:
    plain, off, on = (
        _trainings(each, tmp_path) for each in (tree, _asked(tree, padding_free=False), _asked(tree, padding_free=True))
    )
    for one, same, other in zip(plain, off, on, strict=True):
        first = identity_of(one, None)
        assert "padding_free" not in first["job"]["training"]
        assert identity_of(same, None) == first
        assert identity_of(other, None) != first
        assert other.training.padding_free


def test_a_run_without_padding_trains_the_same_weights(tree: dict[str, Any], tmp_path: Path) -> None:
    found = []
    for free in (False, True):
        mi.run(_asked(tree, padding_free=free), tmp_path / str(free))
        files = sorted((tmp_path / str(free)).rglob("*.safetensors"), key=lambda path: path.parts[-2:])
        found.append([load_file(path) for path in files if "finetuning" in str(path) or "variants" in str(path)])
    assert found[0]
    for padded, unpadded in zip(*found, strict=True):
        assert distance(padded, unpadded) <= 1e-5


def test_what_is_no_yes_or_no_is_refused(tree: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="padding_free"):
        make_recipe(_asked(tree, padding_free="sometimes"))
