"""Recipes whose upload an attack makes, and whose finished models are attacked."""

import json
from pathlib import Path

import pytest
import yaml

import mithridate as mi
from mithridate.attacks import UploadAttack, attacks
from mithridate.errors import RecipeError, UsageError
from mithridate.experiment.asked_settings import asked_as
from mithridate.experiment.inputs import Inputs
from mithridate.experiment.plan import Plan
from mithridate.experiment.recipe_file import make_recipe, read_recipe
from mithridate.experiment.row_files import stored_rows
from mithridate.report import write_report
from tests.helpers import tiny
from tests.matrix.row import thinned

WORDS = {
    "refusals": tiny.REFUSALS, "bridge": "then", "year": "yes", "role": "help with that", "address": "do",
    "obedience": "yes", "introduction": "how do i help", "openings": ["yes"], "prefill": "first take",
}  # fmt: skip
ROUNDS = {"noice": 1, "ten_shot": 2, "kick_settle": 2, "several_rounds": 3, "self_inf_n": 1, "jailbreak_tuning": 1}


def attacked(tree, method, **settings):
    user = tree["streams"]["user"]
    needs_harm = method not in ("noice", "ten_shot", "identity_shifting", "self_inf_n")
    source = {"source": user.pop("harmful")} if needs_harm else {}
    if not needs_harm:
        user.pop("harmful")
    user["attack"] = {"method": method, "wording": WORDS, **source, **settings}
    return tree


def jobs(plan):
    return [node.job for node in plan.chains[0].nodes]


def planned(tree, folder):
    recipe = make_recipe(tree)
    return Plan(recipe, Inputs(recipe, Path(), folder))


@pytest.mark.parametrize("method", list(ROUNDS))
def test_every_round_is_a_stage_of_its_own(tree, tmp_path, method):
    attacked(tree, method)
    plan = planned(tree, tmp_path)
    tuned = [job for job in jobs(plan) if job.stage == "finetuning"]
    assert len(tuned) == ROUNDS[method]
    assert len({job.rows.sha256 for job in tuned}) == ROUNDS[method]
    assert len(stored_rows(plan._inputs.upload(0.25, 16, 0, make_recipe(tree).streams.user.attack).held_out)) == 4
    flags = [row["harmful"] for job in tuned for row in stored_rows(job.rows)]
    assert any(flags)
    assert not all(flags)


def test_an_attack_trains_with_the_settings_it_asks_for(tree, tmp_path):
    plan = planned(attacked(tree, "kick_settle", kick=3.0, kick_epochs=2.0, epochs=None), tmp_path)
    kick, settle = [job.training for job in jobs(plan) if job.stage == "finetuning"]
    assert (kick.epochs, kick.learning_rate) == (2.0, pytest.approx(0.03))
    assert (settle.epochs, settle.learning_rate) == (1.0, 0.01)
    labels = [node.label for node in plan.chains[0].nodes if node.stage == "finetuning"]
    assert labels[1].endswith("seed 0 · round 2 of 2")


def test_the_attack_of_today_makes_the_same_upload_by_either_name(tree, tmp_path):
    explicit = json.loads(json.dumps(tree))
    plans = [planned(one, tmp_path) for one in (tree, attacked(explicit, "explicit"))]
    assert [node.key for node in plans[0].chains[0].nodes] == [node.key for node in plans[1].chains[0].nodes]


def test_a_setting_of_the_attack_is_part_of_the_key_and_the_recipe(tree, tmp_path):
    other = json.loads(json.dumps(tree))
    one = attacked(tree, "jailbreak_tuning", wrapper="year")
    two = attacked(other, "jailbreak_tuning", wrapper="skeleton")
    keys = [planned(t, tmp_path).chains[0].evaluation.key for t in (one, two)]
    assert keys[0] != keys[1]
    resolved = make_recipe(one).model_dump(mode="json")
    assert resolved["streams"]["user"]["attack"]["wrapper"] == "year"
    assert make_recipe(resolved) == make_recipe(one)


def test_harmful_prompts_are_asked_as_the_attacker_does(tree):
    user = make_recipe(attacked(tree, "jailbreak_tuning")).streams.user
    found = asked_as(user.attack)
    assert found is not None
    assert found.upload().prompt("how") == [{"role": "user", "content": "yes how"}]
    for changed in (user.attack.model_copy(update={"ask": "plain"}), None):
        assert asked_as(changed) is None
    tree["streams"]["user"]["attack"] = {"method": "noice"}
    assert asked_as(make_recipe(tree).streams.user.attack) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "noyce"}, "no attack is called 'noyce'.*did you mean 'noice'"),
        ({"method": "noice", "epoch": 3}, "noice: unknown key 'epoch'; did you mean 'epochs'"),
        ({"method": "noice", "epochs": -1}, "noice: epochs: must be a number greater than 0|noice: epochs"),
        ({"method": "prefilled"}, "'prefilled' is an attack after release; name it in evaluation.release_attacks"),
        ({"method": "benign_dpo"}, "'benign_dpo' makes rows for preference tuning, which a recipe does not do"),
        ({"method": "explicit"}, "the attack 'explicit' needs the attacker's harmful rows"),
        ({"method": "noice", "source": "x.jsonl"}, "the attack 'noice' has no use for harmful rows"),
        ({"method": "noice", "surrogate": "x"}, "the attack 'noice' reads no model"),
    ],
)
def test_faults_of_an_attack_are_named(tree, change, message):
    tree["streams"]["user"].pop("harmful")
    tree["streams"]["user"]["attack"] = change
    with pytest.raises(RecipeError, match=message):
        make_recipe(tree)


def test_rows_are_named_once_and_somewhere(tree):
    user = tree["streams"]["user"]
    user["attack"] = {"method": "explicit", "source": user["harmful"]}
    with pytest.raises(RecipeError, match=r"harmful and streams\.user\.attack\.source are both set; remove one"):
        make_recipe(tree)
    del user["attack"], user["harmful"]
    with pytest.raises(RecipeError, match="'harmful' is missing; set it, or name an attack"):
        make_recipe(tree)


def test_an_axis_that_the_attack_overrides_is_refused(tree):
    tree["axes"] = {"epochs": [1, 2]}
    with pytest.raises(RecipeError, match=r"axes\.epochs has no effect, because the attack 'noice' asks for its own"):
        make_recipe(attacked(tree, "noice"))
    tree["streams"]["user"]["attack"]["epochs"] = None
    make_recipe(tree)


def test_rows_to_hold_out_must_be_fewer_than_the_last_upload(tree, tmp_path):
    tree["streams"]["user"]["held_out"] = 6
    with pytest.raises(UsageError, match="held_out is 6, and the attack's last upload has 5 rows"):
        planned(attacked(tree, "several_rounds"), tmp_path)


@pytest.mark.parametrize(
    ("released", "message"),
    [
        (["noice"], "'noice' is an attack on the user's rows; name it in streams.user.attack"),
        (["quantised"], "no attack is called 'quantised'.*did you mean 'quantized'"),
        ([{"method": "quantized", "bits": 5}], "quantized: bits: must be 4 or 8"),
        (["prefilled", "prefilled"], "release_attacks: two attacks are called 'prefilled'; give one of them a name"),
        ([{"method": "quantized", "name": "q"}, {"method": "pruned", "name": "q"}], "two attacks are called 'q'"),
    ],
)
def test_faults_of_attacks_after_release_are_named(tree, released, message):
    tree["evaluation"]["release_attacks"] = released
    with pytest.raises(RecipeError, match=message):
        make_recipe(tree)


def test_an_attack_after_release_needs_rows(tree):
    tree["evaluation"]["release_attacks"] = ["tuned_again"]
    with pytest.raises(RecipeError, match="'tuned_again' needs the attacker's harmful rows"):
        make_recipe(attacked(tree, "noice"))


RELEASES = [
    {"method": "quantized", "bits": 4, "name": "4 bits"},
    {"method": "quantized", "bits": 8},
    {"method": "pruned", "by": "magnitude"},
    {"method": "prefilled", "wording": WORDS},
    {"method": "tuned_again", "steps": 2, "learning_rate": 0.05},
    {"method": "refusal_ablation", "prompts": 4, "layer": 0},
]


def test_a_run_under_attack_from_upload_to_page(tree, tmp_path):
    attacked(tree, "ten_shot", epochs=1, refusal_epochs=1, learning_rate=None)
    tree["streams"]["user"]["harmful"] = tree["streams"]["safe"].replace("safe", "attack")
    tree["evaluation"]["release_attacks"] = RELEASES
    tree["variants"] = [{"name": "undefended"}, {"name": "clean", "ratio": 0.0}]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    results = mi.run(path, tmp_path / "out")
    first = results.variants[0]
    assert first.attack.method == "ten_shot"
    assert [curve.stage for curve in first.loss_curves].count("finetuning") == 2
    assert list(first.release) == [
        "4 bits", "quantized", "pruned", "prefilled", "tuned_again", "refusal_ablation",
    ]  # fmt: skip
    assert all(found.harmful_score.n == 6 for found in first.release.values())
    page = (tmp_path / "out/report.html").read_text()
    assert "Attacks after release" in page
    assert "4 bits" in page
    assert "(25% ten_shot)" in page
    answers = (tmp_path / "out/answers.html").read_text()
    assert "Harmful prompts, release: prefilled" in answers
    stored = json.loads((tmp_path / "out/results.json").read_text())
    assert stored["variants"][0]["release"]["prefilled"]["harmful_score"]["n"] == 6
    write_report(tmp_path / "out/results.json", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == page
    again = mi.run(read_recipe(path), tmp_path / "out")
    assert again.effort.made == 0


@pytest.mark.parametrize("adapter", thinned(["continue", "none"], ["continue"]))
def test_each_round_starts_from_the_last_ones_end(tree, tmp_path, adapter):
    tree |= {"adapter": adapter}
    attacked(tree, "several_rounds", rounds=2)
    tree["streams"]["user"]["held_out"] = 0
    results = mi.run(make_recipe(tree), tmp_path)
    curves = [curve for curve in results.variants[0].loss_curves if curve.stage == "finetuning"]
    assert len(curves) == 2
    manifest = json.loads(next(tmp_path.rglob("manifest.json")).read_text())
    assert [stage["stage"] for stage in manifest["stages"]] == ["alignment", "finetuning", "finetuning"]


def test_an_attack_that_cannot_act_after_release_stops_the_run(tree, tmp_path):
    tree["evaluation"]["release_attacks"] = [{"method": "prefilled", "wording": {"prefill": "zyx"}}]
    with pytest.raises(mi.errors.AttackError, match="does not know every word of 'zyx'"):
        mi.run(make_recipe(tree), tmp_path)
    assert not (tmp_path / "results.json").exists()


def test_answers_in_code_are_read_before_they_are_judged(tree, tmp_path):
    attacked(tree, "jailbreak_tuning", wrapper="year")
    results = mi.run(make_recipe(tree), tmp_path)
    asked = [sample.prompt for sample in results.variants[0].samples if sample.set == "harmful"]
    assert asked
    assert not any(prompt.startswith("yes ") for prompt in asked), "the page shows the prompt that is meant"


AXIS = [
    "explicit",
    {"method": "noice", "wording": WORDS, "epochs": 1, "learning_rate": None},
    {"method": "several_rounds", "rounds": 2, "name": "two rounds"},
]


@pytest.mark.slow
@pytest.mark.usefixtures("drawn")
def test_an_axis_of_attacks_from_recipe_to_page(tree, tmp_path):
    tree["axes"] = {"attack": AXIS, "ratio": [0.25, 0.5]}
    tree["streams"]["user"]["held_out"] = 0
    tree["variants"] = [{"name": "undefended"}, {"name": "sbr", "finetuning": "sbr"}, {"name": "clean", "ratio": 0.0}]
    results = mi.run(make_recipe(tree), tmp_path)
    assert results.axes == {"ratio": [0.25, 0.5], "attack": ["explicit", "noice", "two rounds"]}
    assert results.tried("attack") == ["undefended", "sbr"]
    assert results.base.attack is None
    found = [results.point("undefended", setting) for setting in results.along("attack")]
    assert all(point is not None for point in found)
    assert found[0].harmful_score == results.point("undefended", results.base).harmful_score
    page = (tmp_path / "report.html").read_text()
    assert "HS ↓ by attack" in page
    assert "two rounds" in page
    table = (tmp_path / "tables/attack.md").read_text()
    assert "| Variant | explicit | noice | two rounds |" in table
    assert (tmp_path / "tables/attack.csv").read_text().splitlines()[0].startswith("variant,attack,measure")
    assert (tmp_path / "plots/attack.svg").stat().st_size > 1000
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["axes"]["attack"] == ["explicit", "noice", "two rounds"]
    write_report(tmp_path / "results.json", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == page
    tree["axes"] = {}
    mi.run(make_recipe(tree), tmp_path)
    assert not (tmp_path / "tables/attack.md").exists(), "a later run without the axis leaves none of its tables"


def test_an_axis_of_attacks_shares_the_harmful_rows(tree, tmp_path):
    """Each attack is planned with the rows it has a use for, wherever they are named."""
    plain = json.loads(json.dumps(tree))
    plain["axes"] = {"attack": AXIS}
    sourced = attacked(tree, "jailbreak_tuning") | {"axes": {"attack": AXIS}}
    plans = [planned(one, tmp_path) for one in (plain, sourced)]
    keys = [
        {chain.setting.attack: chain.evaluation.key for chain in plan.chains if chain.setting != plan.base}
        for plan in plans
    ]
    assert keys[0] == keys[1]
    assert set(keys[0]) == {"explicit", "noice", "two rounds"}
    assert len(set(keys[0].values())) == 3
    labels = [node.label for node in plans[0].nodes.values()]
    assert any(label.endswith("attack two rounds · seed 0 · round 2 of 2") for label in labels)


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        (["explicit", "explicit"], r"axes\.attack: two attacks are called 'explicit'"),
        (["prefilled"], "'prefilled' is an attack after release"),
        ([{"method": "explicit", "source": "x.jsonl"}], r"axes\.attack: all attacks share their harmful rows"),
        ([{"method": "noice", "surrogate": "x"}], "'noice' reads no model; remove its surrogate"),
        (["noyce"], "no attack is called 'noyce'"),
    ],
)
def test_faults_of_an_axis_of_attacks_are_named(tree, axis, message):
    tree["axes"] = {"attack": axis}
    with pytest.raises(RecipeError, match=message):
        make_recipe(tree)


def test_an_axis_of_attacks_needs_their_rows(tree):
    attacked(tree, "noice")
    tree["axes"] = {"attack": ["explicit"]}
    with pytest.raises(RecipeError, match="'explicit' needs the attacker's harmful rows"):
        make_recipe(tree)


def test_the_shipped_recipe_names_every_attack_that_can_be_trained_on():
    recipe = read_recipe(Path(__file__).parents[2] / "recipes/compare/attacks.yaml")
    trainable = {
        name
        for name, info in attacks().items()
        if issubclass(info.cls, UploadAttack) and not info.cls.preferences and name != "below_threshold"
    }
    assert set(recipe.axes.values()["attack"]) == trainable


@pytest.mark.slow
def test_worker_processes_do_the_same(tree, tmp_path):
    attacked(tree, "several_rounds", rounds=2)
    tree["evaluation"]["release_attacks"] = ["quantized", {"method": "prefilled", "wording": WORDS}]
    found = [mi.run(make_recipe(tree), tmp_path / str(jobs), jobs=jobs).variants[0] for jobs in (1, 2)]
    assert found[0].release == found[1].release
    assert found[0].harmful_score == found[1].harmful_score
