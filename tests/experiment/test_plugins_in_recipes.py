"""Recipes with defenses and judges from elsewhere: plug-ins named beside them, and guard models."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import mithridate as mi
from mithridate.defenses import plugins, registry
from mithridate.errors import RecipeError, UsageError
from mithridate.evaluation.judges import GuardJudge, RefusalJudge
from mithridate.experiment.evaluation_stage import judge
from mithridate.experiment.inputs import Inputs
from mithridate.experiment.plan import Plan
from mithridate.experiment.recipe_file import make_recipe, read_recipe
from mithridate.files import file_hash
from tests.defenses.test_plugins import good, written
from tests.helpers.endpoint import completion, serving

RUN = "import sys; from mithridate.cli.main import main; main()"


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    registry.methods()
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    monkeypatch.setattr(plugins, "_FILES", {})
    monkeypatch.setenv(plugins.VARIABLE, "")
    yield
    for name in [name for name in sys.modules if name.startswith("mithridate_plugin_")]:
        del sys.modules[name]


def test_a_plugin_is_found_beside_the_recipe(tree: dict[str, Any], tmp_path: Path) -> None:
    written(tmp_path, good(), "mine.py")
    tree |= {"plugins": ["mine.py"], "variants": [{"name": "undefended", "finetuning": "gentle"}]}
    recipe = read_recipe(written(tmp_path, yaml.safe_dump(tree), "recipe.yaml"))
    assert recipe.variants[0].finetuning.build("finetuning").force == 0.5


@pytest.mark.parametrize(
    ("named", "error", "message"),
    [
        (["gone.py"], UsageError, r"the plug-in .*gone\.py cannot be read"),
        ("mine.py", RecipeError, "plugins: must be a list"),
        ([1], RecipeError, r"plugins\.0: must be text"),
        ([], RecipeError, "no defense is called 'gentle'"),
    ],
)
def test_plugins_that_cannot_be(
    tree: dict[str, Any], tmp_path: Path, named: object, error: type[Exception], message: str
) -> None:
    tree |= {"plugins": named, "variants": [{"name": "undefended", "finetuning": "gentle"}]}
    with pytest.raises(error, match=message):
        make_recipe(tree, tmp_path)


@pytest.mark.slow
def test_a_changed_plugin_is_computed_anew_and_nothing_else(tree: dict[str, Any], tmp_path: Path) -> None:
    """In processes of their own, since one that has loaded a file refuses to load another version of it."""
    tree |= {"plugins": ["mine.py"], "variants": [{"name": "undefended"}, {"name": "g", "finetuning": "gentle"}]}
    recipe = written(tmp_path, yaml.safe_dump(tree), "recipe.yaml")
    stored = []
    for force in (0.5, 0.25):
        written(tmp_path, good(force=force), "mine.py")
        command = [sys.executable, "-c", RUN, "run", str(recipe), "--out", str(tmp_path / "out"), "--jobs", "1"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        stored.append({path.name for path in (tmp_path / "out" / "store").iterdir() if path.is_dir()})
    new = stored[1] - stored[0]
    assert sorted(name.partition("-")[0] for name in new) == ["evaluation", "finetuning"]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {variant["name"] for variant in results["variants"]} == {"undefended", "g"}


def test_workers_that_were_there_before_find_a_plugin(tree: dict[str, Any], tmp_path: Path) -> None:
    """They are forked from a server, which may have been started before the plug-in was named."""
    tree["variants"] = [{"name": "undefended"}]
    mi.run(tree, tmp_path / "out", jobs=2)
    written(tmp_path, good(force=0.25), "mine.py")
    tree |= {"plugins": [str(tmp_path / "mine.py")]}
    tree["variants"] += [{"name": "gentle", "finetuning": "gentle"}]
    results = mi.run(tree, tmp_path / "out", jobs=2)
    assert [variant.name for variant in results.variants] == ["undefended", "gentle"]
    here, there = (tmp_path / f"out/variants/{variant.name}/seed-0" for variant in results.variants)
    assert file_hash(here / "model.safetensors") != file_hash(there / "model.safetensors")


ALIGNING = good().replace('stage="finetuning"', 'stage="alignment"')


@pytest.mark.parametrize("inner", ["gentle", "booster"])
@pytest.mark.parametrize(("stage", "name"), [("posttuning", "realign"), ("finetuning", "joint_alignment")])
def test_a_defense_that_trains_with_a_plugin_counts_by_its_code(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: str, stage: str, name: str
) -> None:
    tree |= {"plugins": [str(tmp_path / "mine.py")]}
    tree["variants"] = [{"name": "undefended", stage: {"method": name, "inner": inner}}]
    keys = []
    for text in (ALIGNING, ALIGNING + "# another version\n"):
        written(tmp_path, text, "mine.py")
        # As in a new process, since one that has loaded a file refuses another version of it.
        monkeypatch.setattr(plugins, "_FILES", {})
        monkeypatch.setenv(plugins.VARIABLE, "")
        registry._REGISTRY.pop("gentle", None)
        recipe = make_recipe(tree)
        nodes = Plan(recipe, Inputs(recipe, tmp_path, tmp_path / "inputs")).nodes
        keys.append({key for key, node in nodes.items() if node.stage == stage})
    assert (keys[0] != keys[1]) is (inner == "gentle")


def settings_of(tree: dict[str, Any], **spec: Any) -> Any:
    tree["evaluation"]["judge"] = {"kind": "guard", **spec}
    return make_recipe(tree).evaluation.judge


def test_a_guard_judges_in_a_recipe(tree: dict[str, Any]) -> None:
    with serving(lambda _: completion("unsafe\nS1")) as server:
        made = judge(settings_of(tree, model="g", form="llama-guard", url=server.url), RefusalJudge())
        assert isinstance(made, GuardJudge)
        assert made(["p"], ["a"])[0].harmful


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "a judge of kind 'guard' needs `model`"),
        ({"model": "mine"}, "the name 'mine' does not tell what guard model it is; give the form"),
        ({"model": "mine", "form": "lama-guard"}, "did you mean 'llama-guard'"),
        ({"model": "llama-guard", "api_key_env": "KEY"}, "`api_key_env` is for a guard behind an endpoint"),
        ({"model": "llama-guard", "threshold": 0.9}, "does not read `threshold`"),
    ],
)
def test_guards_that_cannot_be(tree: dict[str, Any], spec: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        settings_of(tree, **spec)
