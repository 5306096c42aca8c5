"""Recipes whose answers vLLM generates: the same figures, stages of their own, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

import mithridate as mi
from mithridate.errors import ModelError, RecipeError, UsageError
from mithridate.evaluation.vllm.environment import PYTHON
from mithridate.experiment.inputs import Inputs
from mithridate.experiment.manifest import recipe_hash
from mithridate.experiment.plan import Plan
from mithridate.experiment.recipe_file import make_recipe
from tests.helpers.vllm_stand_in import make_python


@pytest.fixture
def helping(world: Path, tree: dict[str, Any]) -> dict[str, Any]:
    """The tiny recipe, with ordinary prompts, whose losses need the weights themselves."""
    rows = [{"prompt": f"how do i make the red tea {'now ' * i}", "response": "take the tea"} for i in range(4)]
    path = world / "help.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    tree["evaluation"]["help"] = {"rows": str(path)}
    return tree


def by_vllm(tree: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return tree | {"evaluation": tree["evaluation"] | {"engine": "vllm"} | changes}


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for vLLM's Python, and its notes."""
    folder = tmp_path / "stand-in"
    folder.mkdir()
    monkeypatch.setenv("STAND_IN_NOTES", str(folder))
    monkeypatch.setenv(PYTHON, str(make_python(folder)))
    return folder


# Each evaluation starts a server of its own; the tuned model beside the aligned one is left to the night.
@pytest.mark.parametrize(("finetuning", "evaluations"), [("none", 1), pytest.param("sft", 2, marks=pytest.mark.slow)])
def test_figures_are_those_of_transformers(
    helping: dict[str, Any], stand_in: Path, tmp_path: Path, finetuning: str, evaluations: int
) -> None:
    helping["variants"] = [{"name": "undefended", "finetuning": finetuning}]
    out = tmp_path / "out"
    one = mi.run(helping, out)
    stages = {path.name for path in (out / "store").iterdir()}
    # Processes that share trainings do not share what vLLM answers.
    other = mi.run(by_vllm(helping), out)
    assert (stand_in / "asked.json").is_file()
    assert other.effort is not None
    assert other.effort.made == evaluations  # and nothing else, of the aligned model or of it and the tuned one
    assert len({path.name for path in (out / "store").iterdir()} - stages) >= evaluations
    for mine, theirs in zip(one.variants, other.variants, strict=True):
        assert (mine.harmful_score, mine.finetune_accuracy, mine.over_refusal, mine.helpfulness) == (
            (theirs.harmful_score, theirs.finetune_accuracy, theirs.over_refusal, theirs.helpfulness)
        )
    assert other.versions == one.versions | {"vllm": "9.9.9"}
    assert other.recipe["evaluation"]["engine"] == "vllm"
    manifest = json.loads((out / other.variants[0].folders[0] / "manifest.json").read_text())
    assert (manifest["versions"]["vllm"], manifest["recipe"]["evaluation"]["engine"]) == ("9.9.9", "vllm")
    assert mi.run(helping, out).effort.made == 0  # type: ignore[union-attr]


def test_the_engine_and_its_version_are_part_of_a_stages_identity(
    tree: dict[str, Any], stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys(recipe_tree: dict[str, Any]) -> dict[str, str]:
        recipe = make_recipe(recipe_tree)
        nodes = Plan(recipe, Inputs(recipe, Path(), tmp_path / "inputs")).nodes.values()
        return {node.label: node.key for node in nodes}

    plain, here = keys(tree), keys(by_vllm(tree))
    newer = tmp_path / "newer"
    newer.mkdir()
    monkeypatch.setenv("STAND_IN_VERSION", "10.0")
    monkeypatch.setenv(PYTHON, str(make_python(newer)))
    later = keys(by_vllm(tree))
    assert plain.keys() == here.keys() == later.keys()
    for label, key in plain.items():
        assert len({key, here[label], later[label]}) == (3 if "evaluation" in label else 1)


def test_a_recipe_that_does_not_name_the_engine_keeps_its_hash(tree: dict[str, Any]) -> None:
    written = make_recipe(tree).model_dump(mode="json")
    assert "engine" not in written["evaluation"]
    assert recipe_hash(make_recipe(by_vllm(tree)).model_dump(mode="json")) != recipe_hash(written)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantize": "nf4"}, "evaluation.engine 'vllm' serves whole weights, which quantize 'nf4' does not have"),
        ({"release": "prefilled"}, "evaluation.release_attacks: 'prefilled' attacks a model in memory"),
        ({"redteam": {"release": ["none", "prefilled"]}}, "redteam.release: 'prefilled' attacks a model in memory"),
        ({"engine": "vlm"}, "engine"),
    ],
)
def test_what_vllm_cannot_answer_is_refused(tree: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    evaluation = {"engine": changes.pop("engine", "vllm")}
    if "release" in changes:
        evaluation["release_attacks"] = [changes.pop("release")]
    with pytest.raises(RecipeError, match=message):
        make_recipe(by_vllm(tree, **evaluation) | changes)


def test_vllm_that_fails_stops_the_run(
    tree: dict[str, Any], stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "dies")
    with pytest.raises(ModelError, match="vLLM ended before it served the model"):
        mi.run(by_vllm(tree), tmp_path / "out")
    monkeypatch.delenv(PYTHON)
    with pytest.raises(UsageError, match=f"set {PYTHON} to that environment's Python"):
        mi.run(by_vllm(tree), tmp_path / "out")


def test_a_plan_needs_no_vllm(tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PYTHON, raising=False)
    planned = mi.plan(by_vllm(tree))
    assert any("as transformers would generate" in sentence for sentence in planned.assumptions)
