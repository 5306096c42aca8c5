"""The comparison's file: what it accepts, what it refuses, and in which words."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mithridate.compare import compare
from mithridate.compare.spec import make_spec, read_spec, recipes
from mithridate.errors import RecipeError, UsageError
from tests.compare.conftest import TINY

AXES = TINY.with_name("axes.yaml")


def tree() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(TINY.read_text())
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axis": {}}, "unknown key 'axis'; did you mean 'axes'?"),
        ({"axes": {"learning_rates": [1.0]}}, "unknown key 'axes.learning_rates'; did you mean 'learning_rate'?"),
        ({"axes": {"ratio": [0.1, 0.1]}}, "axes.ratio holds the same value twice"),
        ({"axes": {"ratio": [0.1, 1.5]}}, "axes.ratio = 1.5: streams.user.ratio: "),
        ({"axes": {"size": [8]}}, "axes.size = 8: "),
        ({"pipelines": ["undefended", "flatt"]}, "there is no variant 'flatt'"),
        ({"seeds": [1, 1]}, "seeds holds the same seed twice"),
        ({"variants": [{"name": "antidote"}]}, "two variants are called 'antidote'"),
        ({"variants": [{"name": "new", "posttuning": "antidot"}]}, "no defense is called 'antidot'"),
    ],
)
def test_faults_are_one_sentence(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        make_spec(tree() | change)


@pytest.mark.parametrize("path", sorted(TINY.parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_comparisons_of_the_repository_are_valid(path: Path) -> None:
    assert len(recipes(read_spec(path).spec)) > 1


def test_a_fault_in_the_recipe_is_named_by_its_place() -> None:
    faulty = tree()
    faulty["recipe"]["finetunning"] = {}
    with pytest.raises(RecipeError, match=re.escape("unknown key 'recipe.finetunning'; did you mean 'finetuning'?")):
        make_spec(faulty)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=re.escape("none.yaml does not exist")):
        read_spec(tmp_path / "none.yaml")
    (tmp_path / "spec.yaml").write_text("name: x\nrecipe: gone.yaml\n")
    with pytest.raises(RecipeError, match=re.escape("gone.yaml does not exist")):
        read_spec(tmp_path / "spec.yaml")


def test_overrides_reach_into_the_recipe_it_refers_to() -> None:
    spec, folder = read_spec(AXES, ["recipe.finetuning.batch_size=8", "seeds=[7]", "pipelines=[undefended]"])
    base = spec.base()
    assert (base.finetuning.batch_size, base.seeds, base.reference) == (8, [7], "undefended")
    assert folder.resolve() == (AXES.parent / "..").resolve()


def test_an_axis_is_varied_alone() -> None:
    spec, _ = read_spec(AXES)
    found = recipes(spec)
    base = next(iter(found))
    axes = [values for values in spec.axes.model_dump().values() if values]
    assert len(found) == 1 + sum(len(values) - 1 for values in axes)  # the recipe's own value lies on every axis
    for setting in found:
        changed = [name for name in type(setting).model_fields if getattr(setting, name) != getattr(base, name)]
        assert len(changed) <= 1
    moved = found[base.model_copy(update={"size": 352})]
    assert moved.streams.user.size == 352
    assert moved.finetuning == found[base].finetuning
    assert moved.seeds == spec.seeds


def test_a_variant_with_a_ratio_of_its_own_stays_off_the_axes() -> None:
    spec = make_spec(tree() | {"variants": [{"name": "clean", "ratio": 0.0}], "pipelines": ["undefended", "clean"]})
    base, *others = recipes(spec).values()
    assert [variant.name for variant in base.variants] == ["undefended", "clean"]
    assert others
    assert all([variant.name for variant in recipe.variants] == ["undefended"] for recipe in others)
    with pytest.raises(RecipeError, match="harmful ratio of its own"):
        make_spec(tree() | {"variants": [{"name": "clean", "ratio": 0.0}], "pipelines": ["clean"]})


def test_overrides_without_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="overrides reach into a comparison's file only"):
        compare(tree(), tmp_path, overrides=["seeds=[3]"])
