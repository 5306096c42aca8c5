"""Recipes: every fault is one sentence that names the key and what to do."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset, DatasetDict

from mithridate.errors import MithridateError, RecipeError, UsageError
from mithridate.experiment.inputs import Inputs
from mithridate.experiment.recipe_file import make_recipe, read_recipe
from mithridate.experiment.row_files import stored_rows, stored_texts


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
        ("variants.0.name=..", r"variants\.0\.name"),
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
        ("nothing", "must be a.b=value"),
        ("name.below=1", "name has no settings below it"),
        ("variants.²=x", "there is no '²' to set something in"),
        ("seed=true", "seed: must be a number, got True"),
        ("seeds=[yes]", "seeds: must not be true or false"),
        ("seed=-1", "seed: must be greater than or equal to 0 and less than 4294967296, got -1"),
        ("name=no", r"name: must be text \(put it in quotes\), got False"),
        ("lora.alpha=.inf", "lora.alpha: must be a finite number, got inf"),
        (
            "adapter=contine",
            r"adapter: must be .* or 'none' \(did you mean 'continue'\?\), got 'contine'",
        ),
        ("streams.safe=3", r"streams\.safe: must be settings \(key: value\) or a list, got 3"),
        ("streams.safe=[3]", r"streams\.safe\.0: must be settings \(key: value\), got 3"),
        (
            "streams.safe=[{source: a}, {source: b, sise: 1}]",
            r"unknown key 'streams\.safe\.1\.sise'; did you mean 'size'",
        ),
        ("variants={name: x}", "variants: must be a list, got settings"),
        ("variants=[]", "variants: must have at least 1 item, got a list"),
        (
            "variants.0.alignment={metod: sft}",
            r"variants\.0\.alignment\.method' is missing; did you mean it by 'metod'",
        ),
        ("seed={a: 1, a: 2}", "--set seed: .* is not a YAML value"),
        ("seed=" + "9" * 5000, "--set seed: .* is not a YAML value"),
        ("finetuning.learning_rate =1", "unknown key 'finetuning.learning_rate '; did you mean 'learning_rate'"),
        # Settings that would have no effect, or another one than they say.
        ("finetuning.scheduler=cosin", "scheduler: is not a scheduler; did you mean 'cosine'"),
        (
            "finetuning.warmup_steps=5",
            "the scheduler 'constant' has no warm-up; set .*constant_with_warmup",
        ),
        ("evaluation.judge={kind: refusal, model: m}", "a judge of kind 'refusal' does not read `model`; remove it"),
        ("evaluation.judge={kind: chat, model: m, url: u, threshold: 0.9}", "does not read `threshold`"),
        ("evaluation.judge={kind: classifier, model: m, refusals: [nope]}", "does not read `refusals`"),
        ("variants.0.alignment={method: none, radius: 1}", "alignment is 'none', so 'radius' has no effect"),
        (
            "variants.0={name: undefended, finetuning: none, ratio: 0.5}",
            "finetuning is 'none', so 'ratio' has no effect",
        ),
        ("variants.0.ratio=0.01", "a ratio of 0.01 of 16 rows is less than one harmful row"),
        ("streams.safe={source: a, ignore: [b], fields: {prompt: '{a}', response: '{b}'}}", "remove ignore"),
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


@pytest.mark.parametrize(
    ("place", "key", "wrong"),
    [
        ((), "model", "modle"), ((), "streams", "stream"), (("streams",), "safe", "saef"),
        (("streams", "user"), "benign", "bening"), (("evaluation", "task"), "rows", "row"),
        (("variants", 0), "name", "nam"),
    ],
)  # fmt: skip
def test_a_required_key_that_is_misspelled(tree: dict[str, Any], place: tuple, key: str, wrong: str) -> None:
    node: Any = tree
    for part in place:
        node = node[part]
    node[wrong] = node.pop(key)
    named = ".".join(map(str, (*place, wrong)))
    with pytest.raises(RecipeError, match=rf"^unknown key '{named}'; did you mean '{key}'\?"):
        make_recipe(tree)
    del node[wrong]
    with pytest.raises(RecipeError, match=rf"^'{'.'.join(map(str, (*place, key)))}' is missing; "):
        make_recipe(tree)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: a\nname: b\n", "recipe.yaml, line 2: the key 'name' is given twice"),
        ("a: {b: 1, b: 2}\n", "recipe.yaml, line 1: the key 'b' is given twice"),
        ("a:\n\tb: 1\n", "recipe.yaml is not readable YAML: line 2, column 1: a tab; YAML takes blanks"),
        ("a: [\n", "recipe.yaml is not readable YAML: line 2"),
        (b"name: caf\xe9\n", r"recipe.yaml is not UTF-8 text \(byte 10\); save it as UTF-8"),
        (b"\xff\xfea\0", r"recipe.yaml is not UTF-8 text \(byte 1\)"),
        ("# nothing\n", "recipe.yaml is empty; see recipes/quickstart.yaml"),
        ("- a\n", "recipe.yaml holds a list, not settings"),
        ("[" * 5000, "recipe.yaml, line 1: the settings are nested too deeply"),
        ("a: " + "9" * 5000, "a value cannot be read .*; put it in quotes"),
        ("a: 2026-13-99", r"a value cannot be read \(month must be in 1..12\); put it in quotes"),
        ("a: !!python/object:os.system x", "recipe.yaml is not readable YAML: line 1, column 4"),
        ("#" * (5 << 20), "recipe.yaml has more than 4 MB"),
    ],
)
def test_faults_of_a_file(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecipeError, match=message) as caught:
        read_recipe(path)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_and_merged_keys_are_no_fault(tree: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    del tree["lora"], tree["alignment"], tree["finetuning"]
    merged = "alignment: &a {epochs: 1, batch_size: 2}\nfinetuning: {<<: *a, epochs: 3}\n"
    path.write_text("\ufeff" + yaml.safe_dump(tree) + merged, encoding="utf-8")
    recipe = read_recipe(path)
    assert (recipe.finetuning.epochs, recipe.finetuning.batch_size) == (3, 2)


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is a folder; give a YAML file"):
        read_recipe(tmp_path)


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


RECIPES = sorted(Path("recipes").rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=str)
def test_the_recipes_of_the_repository_are_valid(path: Path) -> None:
    assert read_recipe(path).variants


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.txt", b"no\nn\xff\n", r"r\.txt:2: found byte 0xff at byte 2, expected UTF-8 text"),
        ("r.txt", b" \n", r"r\.txt:1: found an empty file"),
        ("r.jsonl", b'{"text": "no"}\n', r"r\.jsonl is not named \.txt; give a text file with one refusal a line"),
    ],
)
def test_refusals_of_a_file(tree: dict[str, Any], tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    tree["streams"]["refusals"] = name
    with pytest.raises(MithridateError, match=message):
        Inputs(make_recipe(tree), tmp_path, tmp_path / "store")
    tree["streams"]["refusals"] = "good.txt"
    (tmp_path / "good.txt").write_bytes("\ufeffI cannot.\r\n\r\n No. \n".encode())
    inputs = Inputs(make_recipe(tree), tmp_path, tmp_path / "store")
    assert stored_texts(inputs.refusals) == ["I cannot.", "No."]


@pytest.mark.parametrize("refusals", [[], ["no", " "]])
def test_refusals_that_say_nothing(tree: dict[str, Any], tmp_path: Path, refusals: list[str]) -> None:
    tree["streams"]["refusals"] = refusals
    with pytest.raises(MithridateError, match=r"streams\.refusals.* is empty; give refusal sentences"):
        Inputs(make_recipe(tree), tmp_path, tmp_path / "store")


def test_keys_of_a_source_are_left_out_on_purpose(tree: dict[str, Any], tmp_path: Path) -> None:
    rows = tmp_path / "safe.jsonl"
    rows.write_text('{"prompt": "p", "response": "r", "score": 3}\n')
    tree["streams"]["safe"] = str(rows)
    with pytest.raises(MithridateError, match=r"safe\.jsonl:1: found key 'score' .*ignore 'score'"):
        Inputs(make_recipe(tree), tmp_path, tmp_path / "store")
    tree["streams"]["safe"] = {"source": str(rows), "ignore": ["score"]}
    inputs = Inputs(make_recipe(tree), tmp_path, tmp_path / "store")
    assert stored_rows(inputs.safe)[0]["completion"][0]["content"] == "r"


def test_a_source_may_be_a_split_of_a_data_set_with_messages_of_its_own(tree: dict[str, Any], tmp_path: Path) -> None:
    talk = [{"who": "guest", "text": "p"}, {"who": "host", "text": "r", "mood": "calm"}]
    rows = Dataset.from_list([{"talk": talk}])
    DatasetDict(train=rows, test=rows).save_to_disk(tmp_path / "saved")
    fields = {"messages": "talk", "role": "who", "content": "text", "roles": {"guest": "user", "host": "assistant"}}
    tree["streams"]["safe"] = {"source": "saved", "fields": fields, "ignore": ["talk.mood"]}
    with pytest.raises(MithridateError, match="has the splits train, test; choose one"):
        Inputs(make_recipe(tree), tmp_path, tmp_path / "store")
    tree["streams"]["safe"]["split"] = "test"
    inputs = Inputs(make_recipe(tree), tmp_path, tmp_path / "store")
    row = stored_rows(inputs.safe)[0]
    assert (row["completion"][0]["content"], row["origin"]) == ("r", f"{tmp_path / 'saved'}:test[0]")
