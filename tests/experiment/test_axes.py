"""Axes in a recipe: what they accept, what they refuse and in which words, and the settings they make."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mithridate.errors import RecipeError
from mithridate.experiment.axes import setting_of, settings
from mithridate.experiment.recipe_file import make_recipe, read_recipe

TINY = Path(__file__).parents[2] / "recipes/compare/tiny.yaml"
AXES = TINY.with_name("axes.yaml")


def tree() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(TINY.read_text())
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axis": {}}, "unknown key 'axis'; did you mean 'axes'?"),
        ({"axes": {"learning_rates": [1.0]}}, "unknown key 'axes.learning_rates'; did you mean 'learning_rate'?"),
        ({"axes": {"ratio": [0.1, 0.1]}}, "axes: ratio holds the same value twice"),
        ({"axes": {"ratio": [0.1, 1.5]}}, "axes.ratio = 1.5: streams.user.ratio: "),
        ({"axes": {"size": [8]}}, "axes.size = 8: "),
        ({"axes": {"epochs": [True]}}, "axes.epochs"),
        ({"axes": {"epochs": [0]}}, "axes.epochs = 0: finetuning.epochs: "),
        ({"axes": {"alignment_epochs": [-1]}}, "axes.alignment_epochs = -1: alignment.epochs: "),
        ({"axes": {"alignment_learning_rate": ["fast"]}}, "axes.alignment_learning_rate.0: must be a number"),
        (
            {"variants": [{"name": "clean", "ratio": 0.0}], "reference": None},
            "axes.learning_rate: every variant has a harmful ratio of its own, so there is nothing to vary",
        ),
    ],
)
def test_faults_are_one_sentence(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        make_recipe(tree() | change)


WITH_AXES = [path for path in sorted(TINY.parent.glob("*.yaml")) if "\naxes:" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", WITH_AXES, ids=lambda path: path.stem)
def test_the_axes_of_the_repository_are_valid(path: Path) -> None:
    assert len(settings(read_recipe(path))) > 1


def test_an_axis_is_varied_alone() -> None:
    recipe = read_recipe(AXES)
    found = settings(recipe)
    base = next(iter(found))
    assert base == setting_of(recipe)
    assert found[base] is recipe
    # The recipe's own value lies on every axis.
    assert len(found) == 1 + sum(len(values) - 1 for values in recipe.axes.values().values())
    for setting in found:
        changed = [name for name in type(setting).model_fields if getattr(setting, name) != getattr(base, name)]
        assert len(changed) <= 1
    moved = found[base.model_copy(update={"size": 352})]
    assert moved.streams.user.size == 352
    assert moved.finetuning == recipe.finetuning
    assert moved.seeds == recipe.seeds
    assert not moved.axes.values()


def test_alignment_is_an_axis_too() -> None:
    recipe = make_recipe(tree() | {"axes": {"alignment_epochs": [1, 2], "alignment_learning_rate": [1e-3]}})
    base, rate, epochs = settings(recipe).values()
    assert base.alignment.epochs == 2
    assert (epochs.alignment.epochs, epochs.finetuning) == (1, recipe.finetuning)
    assert (rate.alignment.learning_rate, rate.alignment.epochs) == (1e-3, 2)


def test_a_variant_with_a_ratio_of_its_own_stays_off_the_axes() -> None:
    variants = [{"name": "undefended"}, {"name": "clean", "ratio": 0.0}]
    base, *others = settings(make_recipe(tree() | {"variants": variants})).values()
    assert [variant.name for variant in base.variants] == ["undefended", "clean"]
    assert others
    assert all([variant.name for variant in recipe.variants] == ["undefended"] for recipe in others)
    recipe = make_recipe(tree() | {"variants": variants, "reference": "clean"})
    assert all(moved.reference is None for moved in list(settings(recipe).values())[1:])


def test_overrides_reach_the_axes(tmp_path: Path) -> None:
    recipe = read_recipe(TINY, ["axes={epochs: [4, 1]}", "seeds=[7]"])
    assert recipe.axes.values() == {"epochs": [1, 4]}
    assert recipe.seeds == [7]
