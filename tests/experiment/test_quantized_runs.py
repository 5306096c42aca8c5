"""Recipes and policies with a quantized base: what is trained, measured, released, and what is lost by merging."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import mithridate as mi
from mithridate.cli.models import open_model
from mithridate.cli.repair import command as repair_command
from mithridate.errors import DefenseError, MithridateError, ModelError, RecipeError, UsageError
from mithridate.experiment.checkpoint_repair import repair_checkpoint
from mithridate.experiment.identity import identity_of
from mithridate.experiment.inputs import Inputs
from mithridate.experiment.jobs import StageNode
from mithridate.experiment.monitor import Monitor
from mithridate.experiment.plan import Plan
from mithridate.experiment.recipe_file import make_recipe
from mithridate.models import quantized_base
from mithridate.models.loading import Where, load, save_merged, where_named
from mithridate.models.quantized_base import quantized_layers
from mithridate.provider.aligning import align
from mithridate.provider.tuning import STORE, tune
from tests.helpers import tiny
from tests.helpers.quantized import HIDDEN, require_bitsandbytes
from tests.helpers.tiny_world import make_tree, make_world
from tests.helpers.training import distance
from tests.matrix.row import thinned
from tests.provider.conftest import policy  # noqa: F401  # a fixture


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world with a model whose widths bitsandbytes takes."""
    made = make_world(tmp_path_factory.mktemp("quantized"))
    tiny.model(hidden=HIDDEN).save_pretrained(made / "model")
    return made


@pytest.fixture
def tree(world: Path) -> dict[str, Any]:
    return make_tree(world) | {"quantize": "nf4", "reference": None}


class Listening(Monitor):
    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.nodes: list[StageNode] = []

    def told(self, sentence: str) -> None:
        self.sentences.append(sentence)


@pytest.mark.parametrize("adapter", thinned(["continue", "fresh"], ["fresh"]))
def test_a_merged_release_states_what_merging_loses(tree: dict[str, Any], adapter: str, tmp_path: Path) -> None:
    require_bitsandbytes()
    told = Listening()
    variants = [{"name": "repaired", "posttuning": {"method": "random_perturbation", "radius": 0.1}}]
    results = mi.run(tree | {"adapter": adapter, "variants": variants}, tmp_path, monitor=told)
    manifest = json.loads((tmp_path / "variants/repaired/seed-0/manifest.json").read_text())
    loss = manifest["merging"]
    assert loss["base"] == "nf4"
    # NF4's rounding error of normally distributed weights.
    assert 0.05 < loss["weights"]["merged"] <= loss["weights"]["merged_most"] < 0.15
    assert loss["weights"]["update"] > 0
    assert loss["harmful_score"]["quantized"] == results.variants[0].harmful_score.value
    assert set(loss["finetune_accuracy"]) == {"quantized", "merged"}
    (sentence,) = told.sentences
    assert sentence.startswith("variants/repaired/seed-0: merging its adapter into the whole weights changes them by ")
    assert f"{loss['weights']['merged']:.1%}" in sentence
    # Whole weights, so nothing is to be quantized where they are loaded again.
    assert (manifest["quantize"], where_named(str(tmp_path / "variants/repaired/seed-0")).quantize) == ("none", "none")
    aligned = next(stage for stage in manifest["stages"] if stage["stage"] == "alignment")
    assert ("merging" in aligned) == (adapter == "fresh")
    shutil.rmtree(tmp_path / "variants/repaired/seed-0")
    mi.run(tree | {"adapter": adapter, "variants": variants}, tmp_path)
    assert json.loads((tmp_path / "variants/repaired/seed-0/manifest.json").read_text())["merging"] == loss


def test_the_form_is_in_keys_and_hashes_only_where_a_base_is_quantized(tree: dict[str, Any], tmp_path: Path) -> None:
    require_bitsandbytes()
    for quantize in ("none", "nf4"):
        recipe = make_recipe(tree | {"quantize": quantize})
        nodes = Plan(recipe, Inputs(recipe, tmp_path, tmp_path / "inputs")).nodes.values()
        trees = [recipe.model_dump(mode="json"), *(identity_of(node.job, None)["job"] for node in nodes)]
        assert {one.get("quantize") for one in trees} == {None if quantize == "none" else quantize}
        assert all("quantize" not in one for one in trees) == (quantize == "none")


def test_a_released_adapter_is_loaded_on_the_base_it_was_trained_on(tree: dict[str, Any], tmp_path: Path) -> None:
    require_bitsandbytes()
    mi.run(tree | {"save": "adapter", "variants": [{"name": "one"}]}, tmp_path / "run")
    folder = tmp_path / "run/variants/one/seed-0"
    assert "merging" not in json.loads((folder / "manifest.json").read_text())
    assert where_named(str(folder)).quantize == "nf4"
    model, _ = open_model(str(folder), None)
    assert quantized_layers(model)
    with pytest.raises(ModelError, match="the base is quantized, and no adapter can be merged into it"):
        save_merged(model, tiny.tokenizer(), tmp_path / "merged")
    with pytest.raises(DefenseError, match=r"was trained on its base in nf4.*loss that is not stated"):
        repair_checkpoint(mi.WiSEFT(), str(folder), tmp_path / "out", aligned=tree["model"])
    settings = (None, {}, ["radius=0.1"], None, [], "auto", False)
    repair_command(str(folder), tmp_path / "repaired", "random_perturbation", {}, *settings)
    assert where_named(str(tmp_path / "repaired")).quantize == "nf4"
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"quantize": "nf3"}))
    with pytest.raises(ModelError, match="quantize is 'nf3', which this version does not know"):
        where_named(str(folder))


@pytest.mark.slow
def test_two_processes_train_the_adapter_of_one(tree: dict[str, Any], tmp_path: Path) -> None:
    require_bitsandbytes()
    tree |= {"save": "adapter", "adapter": "continue", "variants": [{"name": "one", "alignment": "booster"}]}
    found = []
    for processes in (1, 2):
        mi.run(tree, tmp_path / str(processes), launch=processes)
        folder = tmp_path / str(processes) / "variants/one/seed-0"
        assert json.loads((folder / "manifest.json").read_text())["world_size"] == processes
        found.append(load_file(folder / "adapter_model.safetensors"))
    assert distance(*found) <= 1e-5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"adapter": "none"}, "quantize 'nf4' holds weights that cannot be trained; set adapter"),
        ({"variants": [{"name": "a", "posttuning": "wise_ft"}]}, "wise_ft rewrites whole weights"),
        ({"variants": [{"name": "a", "posttuning": {"method": "antidote", "scope": "delta"}}]}, "antidote rewrites"),
        ({"quantize": "nf3"}, "quantize"),
    ],
)
def test_what_needs_whole_weights_is_refused_first(tree: dict[str, Any], changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        mi.run(tree | changes, "never")


@pytest.mark.parametrize("attack", ["quantized", "pruned"])
def test_so_are_attacks_that_rewrite_them(tree: dict[str, Any], attack: str) -> None:
    tree["evaluation"]["release_attacks"] = [attack]
    with pytest.raises(RecipeError, match=f"'{attack}' rewrites whole weights"):
        mi.run(tree, "never")


def test_without_the_library_it_is_refused_first(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized_base.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"quantize nf4 needs bitsandbytes; install mithridate\[bitsandbytes\]"):
        mi.run(tree, tmp_path)


def test_a_base_that_is_quantized_already_is_refused(world: Path, tmp_path: Path) -> None:
    require_bitsandbytes()
    load(Where(str(world / "model"), None, quantize="nf4"), "float32").save_pretrained(tmp_path / "stored")
    with pytest.raises(ModelError, match="are quantized already; set quantize nf4 to none"):
        load(Where(str(tmp_path / "stored"), None, quantize="nf4"), "float32")


def test_a_policy_tunes_on_a_quantized_base_and_judges_whole_weights(
    policy: dict[str, Any],  # noqa: F811
    world: Path,
    tmp_path: Path,
) -> None:
    require_bitsandbytes()
    policy["quantize"] = "nf4_double"
    aligned = align(str(world / "model"), policy, out=tmp_path / "aligned")
    assert json.loads((aligned / "manifest.json").read_text())["merging"]["merged"] > 0.05
    decision = tune(str(aligned), str(world / "user.jsonl"), policy, out=tmp_path / "out")
    assert decision.outcome == "released"
    assert "tuned on a base in nf4_double and judged merged into the whole weights" in decision.reasons[-1]
    assert not quantized_layers(load(where_named(str(tmp_path / "out/model")), "auto"))
    for changes, said in (({"adapter": "none"}, "cannot be trained"), (REWRITING, "antidote rewrites whole weights")):
        with pytest.raises(MithridateError, match=said):
            tune(str(aligned), str(world / "user.jsonl"), policy | changes, out=tmp_path / "never")


REWRITING = {"ladder": [{"name": "as tuned", "posttuning": {"method": "antidote", "scope": "weights"}}]}


def test_preference_pairs_are_tuned_on_in_float32_too(
    policy: dict[str, Any],  # noqa: F811
    world: Path,
    tmp_path: Path,
) -> None:
    """TRL's DPO trainer rounds an adapter on a quantized base as well."""
    require_bitsandbytes()
    lines = []
    for line in (world / "user.jsonl").read_text().splitlines():
        row = json.loads(line)
        answers = {"preferred_output": row["response"], "non_preferred_output": "sorry no"}
        said = {key: [{"role": "assistant", "content": text}] for key, text in answers.items()}
        lines.append(json.dumps({"input": {"messages": [{"role": "user", "content": row["prompt"]}]}} | said))
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    policy["quantize"] = "nf4"
    policy["ladder"] = policy["ladder"][:1]
    policy["finetuning"]["preferences"] = {"training": {"epochs": 1, "learning_rate": 0.05, "batch_size": 4}}
    out = tmp_path / "out"
    decision = tune(str(world / "model"), str(tmp_path / "pairs.jsonl"), policy, out=out, method="dpo")
    assert decision.outcome == "released"
    (adapter,) = (out / STORE).glob("finetuning-*/adapter/adapter_model.safetensors")
    weights = load_file(adapter)
    assert all(bool((weight != weight.bfloat16().float()).any()) for weight in weights.values())
