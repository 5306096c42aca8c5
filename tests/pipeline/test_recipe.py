"""Recipes: every fault is one sentence that names the key and what to do."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mithridate.errors import RecipeError, UsageError
from mithridate.pipeline.reading import make_recipe, read_recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("zeed=1", "unknown key 'zeed'; did you mean 'seed'"),
        ("finetuning.learing_rate=1", "unknown key 'finetuning.learing_rate'; did you mean 'learning_rate'"),
        ("streams.user.ratio=1.5", r"streams\.user\.ratio: .*less than or equal to 1, got 1\.5"),
        ("streams.user.held_out=16", "held_out leaves no row to train on"),
        ("finetuning.accumulation=3", "batch_size 4 is not a multiple of accumulation 3"),
        ("seeds=[1, 1]", "the same seed twice"),
        ("reference=nobody", "reference 'nobody' is not the name of a variant"),
        ("variants.0.name=a/b", r"variants\.0\.name"),
        ("variants.0.finetuning=antibdy", "no defense is called 'antibdy'; known: .*antibody_tuning"),
        ("variants.0.finetuning=antidote", "'antidote' does not act at the stage finetuning; these do: .*sft"),
        (
            "variants.0.finetuning={method: antibody_tuning, temprature: 1}",
            "antibody_tuning: unknown key 'temprature'; did you mean 'temperature'",
        ),
        ("variants.0.posttuning={method: panacea, radius: -1}", "panacea: radius"),
        ("variants.0.posttuning=random_perturbation", "exactly one of std"),
        (
            "variants.0={name: undefended, alignment: none, posttuning: resta}",
            "variant 'undefended': resta needs what alignment changed, but alignment is 'none'",
        ),
        (
            "variants.0.posttuning=[wise_ft, antidote]",
            "antidote acts on a LoRA adapter, which wise_ft before it merges; put antidote first",
        ),
        ("evaluation.judge={kind: chat, model: m}", "a judge of kind 'chat' needs `url`"),
        ("variants.9.name=x", "there is no '9'"),
        ("nothing", "has no form a.b=value"),
        ("name.below=1", "name has no settings below it"),
    ],
)
def test_faults(tree: dict[str, Any], tmp_path: Path, change: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(RecipeError, match=message) as caught:
        read_recipe(path, [change])
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_overrides_reach_lists_and_make_new_keys(tree: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    recipe = read_recipe(path, ["variants.0.ratio=0.5", "finetuning.epochs=7", "streams.safe.size=3"][:2])
    assert recipe.variants[0].ratio == 0.5
    assert recipe.finetuning.epochs == 7


@pytest.mark.parametrize("content", ["", "[1]", "a: [", "\x00"])
def test_files_that_hold_no_recipe(tmp_path: Path, content: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        read_recipe(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="does not exist"):
        read_recipe(tmp_path / "none.yaml")


def test_defaults_and_strength_alias(tree: dict[str, Any]) -> None:
    tree["variants"][0]["posttuning"] = [{"method": "antidote", "strength": 0.3}]
    recipe = make_recipe(tree)
    repair = recipe.variants[0].posttuning[0].build("posttuning")
    assert repair.model_dump()["mask_ratio"] == 0.3
    with pytest.raises(UsageError):
        recipe.variants[0].posttuning[0].build("finetuning")


RECIPES = [path for path in sorted(Path("recipes").rglob("*.yaml")) if path.parent.name != "compare"]


@pytest.mark.parametrize("path", RECIPES, ids=str)
def test_the_recipes_of_the_repository_are_valid(path: Path) -> None:
    assert read_recipe(path).variants
