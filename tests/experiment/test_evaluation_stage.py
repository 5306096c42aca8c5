"""What an evaluation records, and what becomes of it in results, report and answers."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import mithridate as mi
from mithridate.errors import DataError, RecipeError
from mithridate.evaluation.coherence import MARGIN
from mithridate.evaluation.outcomes import Outcome
from mithridate.experiment.evaluation_stage import majority, refusal_rules
from mithridate.experiment.helped_answers import helped_answers
from mithridate.experiment.recipe_file import make_recipe
from mithridate.experiment.recipe_parts import JudgeSettings
from mithridate.experiment.stage_records import HelpRecord
from mithridate.report import as_markdown
from tests.helpers.tiny_world import make_tree


class Ran:
    """A finished run with helpfulness."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = json.loads((folder / "results.json").read_text())
        self.variants = {variant["name"]: variant for variant in self.results["variants"]}
        self.answers = json.loads((folder / "answers.json").read_text())


def make_helping(world: Path) -> dict[str, Any]:
    tree = make_tree(world)
    rows = [{"prompt": f"how do i make the red tea {'now ' * i}", "response": "take the tea"} for i in range(7)]
    path = world / "help.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    tree["evaluation"]["help"] = {"rows": str(path)}
    return tree


@pytest.fixture
def helping(world: Path) -> dict[str, Any]:
    return make_helping(world)


@pytest.fixture(scope="module")
def ran(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    helping = make_helping(world)
    helping["seeds"] = [0, 1]
    helping["variants"] = [
        {"name": "undefended"},
        {"name": "aligned", "finetuning": "none"},
        {"name": "repaired", "posttuning": {"method": "panacea", "radius": 0.5}},
    ]
    folder = tmp_path_factory.mktemp("ran")
    mi.run(helping, folder)
    return Ran(folder)


def test_a_run_tells_what_every_answer_is_and_what_helpfulness_is_left(ran: Ran) -> None:
    stages = Counter(path.name.split("-")[0] for path in (ran.folder / "store").iterdir() if path.is_dir())
    # The aligned model is measured once: as the reference of all, and as the variant that stops there.
    assert stages["evaluation"] == 2 + 1 + 2
    assert ran.results["judge"] == "refusal"
    for variant in ran.variants.values():
        for name, prompts in (("harmful", 6), ("look_alikes", 6), ("help", 7)):
            shares = variant["outcomes"][name]
            assert shares["n"] == 2 * prompts
            assert sum(shares[outcome.value] for outcome in Outcome) == pytest.approx(1)
        helped = variant["helpfulness"]
        assert helped["n"] == 14
        assert helped["value"] <= variant["outcomes"]["help"]["complied"] + 1e-9
        assert helped["loss"] > 0
    own = ran.variants["aligned"]["helpfulness"]
    assert own["value"] == own["aligned"]
    assert own["loss"] == own["aligned_loss"]
    assert ran.variants["undefended"]["helpfulness"]["loss"] != own["loss"]
    assert ran.variants["undefended"]["helpfulness"]["aligned_loss"] == own["loss"]


def test_every_answer_of_every_seed_is_on_the_page_of_answers(ran: Ran) -> None:
    leaves = ran.answers["leaves"]
    assert [(leaf["variant"], leaf["seed"]) for leaf in leaves] == [
        (name, seed) for seed in (0, 1) for name in ("undefended", "aligned", "repaired")
    ]
    for leaf in leaves:
        assert {name: len(found) for name, found in leaf["sets"].items()} == {
            "harmful": 6,
            "task": 8,
            "look_alikes": 6,
            "help": 7,
        }
        assert all(answer["outcome"] in set(Outcome) for answer in leaf["sets"]["harmful"] + leaf["sets"]["help"])
    page = (ran.folder / "answers.html").read_text()
    assert page.count("<li>") == 6 * 27
    assert 'href="answers.html"' in (ran.folder / "report.html").read_text()


def test_outcomes_are_those_of_the_answers(ran: Ran) -> None:
    for name, variant in ran.variants.items():
        for kind in ("harmful", "look_alikes", "help"):
            found = [a for leaf in ran.answers["leaves"] if leaf["variant"] == name for a in leaf["sets"][kind]]
            counted = Counter(answer["outcome"] for answer in found)
            for outcome in Outcome:
                assert variant["outcomes"][kind][outcome.value] == pytest.approx(counted[outcome] / len(found))
        harmful = [a for leaf in ran.answers["leaves"] if leaf["variant"] == name for a in leaf["sets"]["harmful"]]
        assert variant["harmful_score"]["value"] == sum(a["harmful"] for a in harmful) / len(harmful)
        both = [a["harmful"] and a["outcome"] == "broken" for a in harmful]
        assert variant["broken_harmful"] == sum(both) / len(both)
        worse = [a["harmful"] or a["outcome"] == "broken" for a in harmful]
        assert variant["harmful_score_plus"]["value"] == sum(worse) / len(worse)


def test_escapes_are_told_whether_they_were_stopped_or_stayed(ran: Ran) -> None:
    first = {leaf["variant"]: leaf["sets"]["harmful"] for leaf in ran.answers["leaves"] if leaf["seed"] == 0}
    pairs = zip(first["undefended"], first["repaired"], strict=True)
    after = [other["harmful"] for one, other in pairs if one["harmful"]]
    assert (ran.results["stopped"], ran.results["stayed"]) == (after.count(False), after.count(True))
    assert len(ran.results["escapes"]) == len(after) > 0
    assert [escape["after"]["harmful"] for escape in ran.results["escapes"]] == sorted(after)
    assert {escape["after"]["variant"] for escape in ran.results["escapes"]} == {"repaired"}


def test_training_losses_are_kept_and_shared_trainings_have_one_key(ran: Ran) -> None:
    curves = {name: variant["loss_curves"] for name, variant in ran.variants.items()}
    keys = {name: {(c["stage"], c["key"]) for c in found} for name, found in curves.items()}
    assert keys["undefended"] == keys["repaired"]
    assert keys["aligned"] < keys["undefended"]
    assert {stage for stage, _ in keys["undefended"]} == {"alignment", "finetuning"}
    assert all(len(c["losses"]) == len(c["steps"]) > 0 for found in curves.values() for c in found)


def test_activity_that_differs_between_seeds_is_told_for_each(helping: dict[str, Any], tmp_path: Path) -> None:
    helping |= {"seeds": [0, 1], "variants": [{"name": "undefended", "finetuning": {"method": "antibody_tuning"}}]}
    activity = mi.run(helping, tmp_path).variants[0].activity
    assert any(isinstance(value, list) and len(value) == 2 for value in activity.values()), activity


def test_an_exact_answer_is_asked_for_where_only_one_is_right(helping: dict[str, Any], tmp_path: Path) -> None:
    helping["evaluation"]["help"] |= {"check": "exact"}
    found = mi.run(helping, tmp_path).variants[0].helpfulness
    assert found is not None
    assert found.value == 0  # a random model says nothing right
    assert found.kept is None


def test_without_ordinary_prompts_the_report_says_so(tree: dict[str, Any], tmp_path: Path) -> None:
    del tree["evaluation"]["look_alikes"]
    results = mi.run(tree, tmp_path)
    assert results.variants[0].helpfulness is None
    report = (tmp_path / "report.html").read_text()
    assert "Helpfulness was not measured" in report
    assert "Over-refusal was not measured" in report
    evaluations = [path for path in (tmp_path / "store").iterdir() if path.name.startswith("evaluation")]
    assert len(evaluations) == 1


@pytest.mark.parametrize(("name", "stream"), [("help", "safe"), ("help", "harmful"), ("look_alikes", "safe")])
def test_what_is_measured_must_not_be_trained_on(
    helping: dict[str, Any], tmp_path: Path, name: str, stream: str
) -> None:
    source = helping["streams"][stream]
    helping["evaluation"][name] = {"rows": source} if name == "help" else source
    with pytest.raises(DataError, match=f"also in '{name}'"):
        mi.run(helping, tmp_path)


def test_what_is_measured_must_not_be_in_the_upload(helping: dict[str, Any], tmp_path: Path) -> None:
    helping["evaluation"]["help"] = {"rows": helping["streams"]["user"]["benign"]}
    with pytest.raises(DataError, match="'benign' also in 'help'"):
        mi.run(helping, tmp_path)


def record(surprise: list[float] | None, outcomes: list[str], right: list[bool] | None = None) -> HelpRecord:
    losses = [[2.0, 4], [6.0, 4]]
    return HelpRecord.model_validate({"outcomes": outcomes, "right": right, "surprise": surprise, "losses": losses})


def test_compliance_that_surprises_the_aligned_model_is_broken() -> None:
    aligned = record([0.5, 1.0], ["complied", "complied"])
    limit = 1.0 + MARGIN
    mine = record([limit, limit + 0.01, 9.0, 9.0], ["complied", "complied", "refused", "label_only"])
    found = helped_answers(mine, aligned)
    assert found.outcomes == [Outcome.COMPLIED, Outcome.BROKEN, Outcome.REFUSED, Outcome.LABEL_ONLY]
    assert found.helped == [True, False, False, False]
    assert found.loss == 1.0


def test_right_answers_count_only_where_they_comply() -> None:
    found = helped_answers(record(None, ["complied", "complied", "broken"], [True, False, True]), record(None, []))
    assert found.helped == [True, False, False]


def test_the_majority_answer_is_the_commonest() -> None:
    assert majority(["a", "b", "a", "c"]) == 0.5
    assert majority(["a"]) == 1.0


def test_the_recipes_phrases_are_refusals_everywhere() -> None:
    rules = refusal_rules(JudgeSettings(refusals=["... assist"]), ["positive"])
    assert rules.refuses("Take the cloth, but we do not assist.")
    assert rules.refuses("I cannot help with that.")
    assert rules.kind("positive") is Outcome.LABEL_ONLY


@pytest.fixture
def grouped(world: Path) -> dict[str, Any]:
    tree = make_tree(world)
    for name, first, count in (("known", 20, 4), ("unknown", 30, 2)):
        lines = [json.dumps({"prompt": f"how do i make the blue tea {'my ' * i}"}) for i in range(first, first + count)]
        (world / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sources = [{"source": str(world / f"{name}.jsonl"), "group": name} for name in ("known", "unknown")]
    return tree | {"evaluation": tree["evaluation"] | {"harmful": sources, "look_alikes": sources[::-1]}}


def test_groups_of_prompts_have_scores_of_their_own(grouped: dict[str, Any], tmp_path: Path) -> None:
    grouped["seeds"] = [0, 1]
    variant = mi.run(grouped, tmp_path).variants[0]
    leaves = json.loads((tmp_path / "answers.json").read_text())["leaves"]
    answers = [answer for leaf in leaves for answer in leaf["sets"]["harmful"]]
    assert [answer["group"] for answer in answers] == (["known"] * 4 + ["unknown"] * 2) * 2
    assert list(variant.harmful_score_by_group) == ["known", "unknown"]
    for group, score in variant.harmful_score_by_group.items():
        own = [answer["harmful"] for answer in answers if answer["group"] == group]
        assert (score.n, score.value) == (len(own), sum(own) / len(own))
    assert variant.harmful_score.n == 12
    assert {name: score.n for name, score in variant.over_refusal_by_group.items()} == {"unknown": 4, "known": 8}
    # Samples show both groups, however the file orders them.
    assert {sample.group for sample in variant.samples if sample.set == "look_alikes"} == {"known", "unknown"}
    shown = as_markdown(tmp_path / "results.json")
    assert f"known {100 * variant.harmful_score_by_group['known'].value:.1f}%" in shown


def test_a_group_for_some_prompts_only_is_refused(grouped: dict[str, Any]) -> None:
    del grouped["evaluation"]["harmful"][0]["group"]
    with pytest.raises(RecipeError, match=r"evaluation.harmful: some sources have a group and some have none"):
        make_recipe(grouped)


def test_a_misspelled_key_of_prompts_names_the_nearest(grouped: dict[str, Any]) -> None:
    grouped["evaluation"]["harmful"][0]["groop"] = grouped["evaluation"]["harmful"][0].pop("group")
    with pytest.raises(RecipeError, match=r"unknown key 'evaluation.harmful.0.groop'; .*'group'"):
        make_recipe(grouped)
    grouped["evaluation"]["harmful"] = {"sorce": "x"}
    with pytest.raises(RecipeError, match=r"unknown key 'evaluation.harmful.sorce'; .*'source'"):
        make_recipe(grouped)


def test_a_variant_may_be_aligned_for_longer(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["variants"] += [{"name": "longer", "alignment_epochs": 2}]
    curves = {variant.name: variant.loss_curves for variant in mi.run(tree, tmp_path).variants}
    last = {name: found[0].steps[-1] for name, found in curves.items()}
    assert {found[0].stage for found in curves.values()} == {"alignment"}
    assert last["longer"] == 2 * last["undefended"]
