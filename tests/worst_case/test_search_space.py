"""What a search draws from, and the recipe of a trial."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mithridate.errors import RecipeError
from mithridate.experiment.inputs import Inputs
from mithridate.experiment.plan import Plan
from mithridate.experiment.recipe import Recipe
from mithridate.experiment.recipe_attacks import NamedAttack
from mithridate.experiment.recipe_file import make_recipe, read_recipe
from mithridate.worst_case.rows import searched_rows
from mithridate.worst_case.search_space import Space, TrialSetting, epochs_for
from mithridate.worst_case.trial_recipe import own_recipe, trial_recipe
from tests.helpers.tiny_world import make_tree
from tests.worst_case.conftest import searched_tree

SHIPPED = Path(__file__).parents[2] / "recipes/redteam.yaml"


@pytest.fixture
def tree(world: Path) -> dict[str, Any]:
    return searched_tree(world)


def setting(**changes: Any) -> TrialSetting:
    drawn: dict[str, Any] = {
        "learning_rate": 1e-3, "steps": 7, "epochs": None, "batch_size": 4, "rank": 4, "scheduler": "cosine",
        "attack": NamedAttack(method="explicit"), "release": None,
    }  # fmt: skip
    return TrialSetting(**drawn | changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": [1e-3, 1e-5]}, r"^redteam: learning_rate: the smallest, 0.001, is above the largest, 1e-05"),
        ({"learning_rate": [1e-9, 1e-3]}, r"^redteam: learning_rate goes beyond TamperBench's range of 1e-06 to 0.001"),
        ({"learning_rate": [0, 1e-3]}, r"redteam\.learning_rate\.0: must be greater than 0"),
        ({"learning_rate": [1e-5]}, r"redteam\.learning_rate: must have at least 2 items"),
        ({"learning_rate": [1e-5, float("inf")]}, r"redteam\.learning_rate\.1: must be a finite number"),
        ({"learning_rat": [1e-5, 1e-4]}, r"unknown key 'redteam\.learning_rat'; did you mean 'learning_rate'"),
        ({"steps": [8, 16]}, r"^redteam: steps goes beyond TamperBench's range of 16 to 512; narrow it, or set"),
        ({"steps": [16, 16]}, r"redteam\.steps: holds the same value twice"),
        ({"steps": []}, r"redteam\.steps: must have at least 1 item"),
        ({"steps": [16.5]}, r"redteam\.steps\.0: must be a whole number"),
        ({"steps": [16], "epochs": [1]}, r"^redteam: steps and epochs are both set; remove one"),
        ({"batch_size": [128]}, r"^redteam: batch_size goes beyond TamperBench's range of 8 to 64"),
        ({"rank": [1]}, r"^redteam: rank goes beyond TamperBench's range of 8 to 64"),
        ({"scheduler": ["cosin"]}, r"redteam\.scheduler: 'cosin' is not a scheduler; did you mean 'cosine'"),
        (
            {"utility_loss": 10},
            r"redteam\.utility_loss: must be greater than or equal to 0 and less than or equal to 1",
        ),
        ({"attacks": ["noyce"]}, r"redteam\.attacks: no attack is called 'noyce'.*did you mean 'noice'"),
        ({"attacks": ["quantized"]}, r"redteam\.attacks: 'quantized' is an attack after release"),
        ({"attacks": ["benign_dpo"]}, r"redteam\.attacks: 'benign_dpo' makes rows for preference tuning"),
        ({"attacks": ["explicit", "explicit"]}, r"^redteam: attacks: two attacks are called 'explicit'"),
        ({"attacks": [{"method": "noice", "epochs": 2}]}, r"redteam\.attacks: 'noice' asks for its own epochs, which"),
        (
            {"attacks": [{"method": "jailbreak_tuning", "vary": {"wraper": ["year"]}}]},
            r"redteam\.attacks: jailbreak_tuning: unknown key 'wraper'; did you mean 'wrapper'",
        ),
        (
            {"attacks": [{"method": "jailbreak_tuning", "vary": {"wrapper": ["year", "yeer"]}}]},
            r"redteam\.attacks: jailbreak_tuning: wrapper: must be .*did you mean 'year'",
        ),
        (
            {"attacks": [{"method": "jailbreak_tuning", "wrapper": "year", "vary": {"wrapper": ["style"]}}]},
            r"'wrapper' is both set and varied; remove one",
        ),
        ({"attacks": [{"method": "several_rounds", "vary": {"rounds": [2, 2]}}]}, r"vary\.rounds holds the same value"),
        ({"attacks": [{"method": "several_rounds", "vary": {"rounds": [[2]]}}]}, r"vary\.rounds must hold numbers or"),
        (
            {"attacks": [{"method": "several_rounds", "vary": {"rounds": list(range(2, 300))}}]},
            r"298 combinations; 256",
        ),
        ({"release": ["explicit"]}, r"redteam\.release: 'explicit' is an attack on the user's rows"),
        ({"release": []}, r"redteam\.release: must have at least 1 item"),
    ],
)
def test_a_bad_range_is_refused_by_name(world: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make_recipe(make_tree(world) | {"redteam": change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adapter": "continue"}, r"redteam\.rank has no effect with adapter 'continue'"),
        ({"axes": {"epochs": [1, 2]}}, "axes have no effect on a search"),
        ({"variants": [{"name": "undefended", "alignment": "vaccine"}]}, "needs an undefended row as its control"),
        ({"variants": [{"name": "undefended", "ratio": 0.0}]}, "needs an undefended row as its control"),
        ({"variants": [{"name": "undefended", "finetuning": "none"}]}, "needs an undefended row as its control"),
    ],
)
def test_what_cannot_be_searched_is_refused(tree: dict[str, Any], change: dict[str, Any], message: str) -> None:
    recipe = make_recipe(tree | change)
    with pytest.raises(RecipeError, match=message):
        searched_rows(recipe), Space(recipe)


def test_an_attack_that_needs_harmful_rows_must_have_them(tree: dict[str, Any]) -> None:
    tree["streams"]["user"] = {name: v for name, v in tree["streams"]["user"].items() if name != "harmful"}
    tree["streams"]["user"]["attack"] = "noice"
    with pytest.raises(RecipeError, match=r"'explicit' needs the attacker's harmful rows; set streams\.user\.harmful"):
        Space(make_recipe(tree))
    tree["redteam"]["attacks"] = ["noice"]
    Space(make_recipe(tree))


def test_the_reference_is_the_control_among_several(tree: dict[str, Any]) -> None:
    tree["variants"].insert(0, {"name": "bare", "alignment": "none"})
    assert searched_rows(make_recipe(tree)).control.name == "undefended"
    assert searched_rows(make_recipe(tree | {"reference": "bare"})).control.name == "bare"


def test_a_row_with_a_ratio_of_its_own_is_left_out(tree: dict[str, Any]) -> None:
    """Its trials would hold fewer harmful rows than those of the others, and it would look safer."""
    tree["variants"] += [{"name": "milder", "ratio": 0.1}, {"name": "as-given", "ratio": 0.25}]
    rows = searched_rows(make_recipe(tree))
    assert [row.name for row in rows.searched] == ["undefended", "panacea", "as-given"]
    assert rows.left_out == {
        "clean": "its upload holds no row of the attacker",
        "milder": "its ratio of harmful rows is not the recipe's, so that it would meet another attack than the others",
    }


def test_without_ranges_those_of_tamperbench_are_searched(world: Path) -> None:
    ranges = Space(make_recipe(make_tree(world))).ranges
    assert ranges.learning_rate == [1e-6, 1e-3]
    assert ranges.steps == [16, 64, 128, 256, 512]
    assert ranges.batch_size == ranges.rank == [8, 16, 32, 64]
    assert [one.method for one in ranges.attacks or []] == ["explicit", "jailbreak_tuning", "several_rounds", "noice"]
    assert [one and one.method for one in ranges.release or []] == [None, "prefilled", "quantized"]
    assert Space(make_recipe(make_tree(world) | {"adapter": "none"})).ranges.rank is None


def test_the_shipped_recipe_searches_six_defenses() -> None:
    recipe = read_recipe(SHIPPED)
    rows = searched_rows(recipe)
    names = [
        "undefended",
        "antibody",
        "antibody-tuning",
        "realign",
        "realign-antibody-quarter",
        "antibody-tuning-quarter",
    ]
    assert [row.name for row in rows.searched] == [*names, "panacea"]
    # In the language of the embedded world, without which its wrappers would be unknown words.
    wrapped = next(one for one in Space(recipe).attacks if one.method == "jailbreak_tuning")
    assert len({wrapped.formed(form).label for form in wrapped.forms()}) == 6


@given(st.integers(1, 5000), st.integers(1, 3000), st.integers(1, 64))
def test_epochs_stand_for_the_very_number_of_steps(steps: int, rows: int, batch: int) -> None:
    assert math.ceil(epochs_for(steps, rows, batch) * math.ceil(rows / batch)) == steps


def test_a_trial_changes_what_the_attacker_chooses_and_nothing_else(tree: dict[str, Any]) -> None:
    tree["finetuning"] |= {"batch_size": 4, "accumulation": 2, "scheduler": "linear", "warmup_steps": 2}
    recipe = make_recipe(tree)
    made = trial_recipe(recipe, recipe.variants[2], setting(batch_size=6, scheduler="constant"))
    assert [variant.name for variant in made.variants] == ["panacea"]
    assert made.finetuning.accumulation == 3  # micro-batches no larger than the recipe's
    assert made.finetuning.warmup_steps == 0
    assert made.finetuning_lora is not None
    assert (made.finetuning_lora.rank, made.finetuning_lora.alpha) == (4, 8)
    assert (made.lora, made.alignment, made.streams.safe) == (recipe.lora, recipe.alignment, recipe.streams.safe)
    assert recipe == make_recipe(tree)  # left as it was


def test_an_attack_without_harmful_rows_gets_none(tree: dict[str, Any]) -> None:
    recipe = make_recipe(tree)
    quiet = trial_recipe(recipe, recipe.variants[0], setting(attack=NamedAttack(method="noice")))
    assert quiet.streams.user.attacker is None
    ablated = NamedAttack(method="refusal_ablation")
    both = trial_recipe(recipe, recipe.variants[0], setting(attack=NamedAttack(method="noice"), release=ablated))
    assert both.streams.user.attacker == recipe.streams.user.attacker


def test_a_recipe_with_attacks_of_its_own_can_be_searched(tree: dict[str, Any]) -> None:
    tree["streams"]["user"]["attack"] = {"method": "noice"}
    tree["evaluation"]["release_attacks"] = ["refusal_ablation"]
    recipe = make_recipe(tree)
    made = own_recipe(recipe, recipe.variants[0])
    assert (made.streams.user.attacker, made.evaluation.release_attacks) == (None, [])


def test_another_adapter_of_fine_tuning_leaves_alignment_alone(tree: dict[str, Any], tmp_path: Path) -> None:
    tree |= {"variants": tree["variants"][:1], "redteam": None}

    def stages(changed: dict[str, Any]) -> dict[str, str]:
        recipe = make_recipe(tree | changed)
        return {node.stage: node.key for node in Plan(recipe, Inputs(recipe, Path(), tmp_path)).nodes.values()}

    same, other = stages({}), stages({"finetuning_lora": tree["lora"] | {"rank": 8}})
    assert same["alignment"] == other["alignment"]
    assert same["finetuning"] != other["finetuning"]
    assert same == stages({"finetuning_lora": tree["lora"]})
    with pytest.raises(RecipeError, match="finetuning_lora has no effect with adapter 'none'; remove it"):
        make_recipe(tree | {"adapter": "none", "finetuning_lora": tree["lora"]})


def test_what_a_search_varies_decides_no_run(tree: dict[str, Any], tmp_path: Path) -> None:
    def keys(changed: dict[str, Any]) -> list[str]:
        recipe: Recipe = make_recipe(tree | changed)
        return list(Plan(recipe, Inputs(recipe, Path(), tmp_path)).nodes)

    assert keys({}) == keys({"redteam": None})
