"""The cards, the tool that fills them, and the page that is made of them."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from tools.cards import Card, agreement, check_cards, read_cards, trials, write_card
from tools.method_facts import shipped

from mithridate.defenses.registry import methods
from mithridate.errors import DataError
from mithridate.evaluation.intervals import Score
from mithridate.experiment.recipe import Recipe
from mithridate.report.axis_results import Claim as Answer
from mithridate.report.result_parts import Helpfulness
from mithridate.report.results import Results
from mithridate.report.results_file import load_results
from mithridate.report.scores import ScoreOverSeeds
from tools import measure_cards, measure_claims, which_defense

ROOT = Path(__file__).parents[2]
CARDS = ROOT / "cards"
N = 900


def built(model, **values):
    """An object with some of its fields."""
    return model.model_construct(**values)


def results(**figures):
    """A run of the quickstart's recipe with these percents of harmful answers and of right ones."""
    recipe = Recipe.model_validate(yaml.safe_load((ROOT / "recipes/quickstart.yaml").read_text()))
    chosen = {variant.name: variant for variant in recipe.variants}
    percents = {"clean": (2, 90), "undefended": (60, 90), **figures}
    kept = recipe.model_copy(update={"variants": [chosen[name] for name in percents]})
    variants = [_variant(chosen[name], *both) for name, both in percents.items()]
    return Results.model_validate({
        "created": "2026-01-02T03:04:05+00:00", "command": "mithridate run comparison.yaml", "seeds": [0, 1],
        "recipe": kept.model_dump(mode="json"), "variants": variants,
    })  # fmt: skip


def _variant(variant, harmful, correct):
    return {
        "name": variant.name, "alignment": variant.alignment.method, "finetuning": variant.finetuning.method,
        "posttuning": " + ".join(choice.method for choice in variant.posttuning) or "none",
        "attack": {"ratio": 0.2 if variant.ratio is None else variant.ratio, "size": 704},
        "harmful_score": Score.of(N * harmful // 100, N).as_dict(),
        "finetune_accuracy": Score.of(N * correct // 100, N).as_dict(),
    }  # fmt: skip


@pytest.fixture(scope="module")
def cards():
    """The committed cards before any measurement."""
    blank = {"measured": [], "agreement": "not measured", "note": "Not measured yet."}
    return {name: card.model_copy(update=blank) for name, card in read_cards(CARDS).items()}


@pytest.fixture
def folder(tmp_path, cards):
    for name in ("antidote", "wise_ft"):
        write_card(cards[name], tmp_path)
    return tmp_path


def test_every_method_has_a_valid_card_and_every_card_a_method():
    assert check_cards(CARDS, shipped(methods())) == []


def test_files_are_as_the_tool_writes_them(tmp_path):
    for name, card in read_cards(CARDS).items():
        write_card(card, tmp_path)
        assert (tmp_path / f"{name}.json").read_text() == (CARDS / f"{name}.json").read_text(), name


def test_claims_made_together_are_mutual():
    found = read_cards(CARDS)
    for card in found.values():
        assert all(card.method in found[other].together for other in card.together)


def test_the_page_is_up_to_date():
    page = which_defense.page(methods(), read_cards(CARDS), load_results(which_defense.RESULTS))
    assert page == which_defense.PAGE.read_text(), "run `make docs`"


@pytest.mark.parametrize(("change", "message"), [
    (lambda c: c.update(agrement="agrees"), "unknown key 'agrement'; did you mean 'agreement'"),
    (lambda c: c.pop("paper"), "'paper' is missing; set it"),
    (lambda c: c["paper"].update(arxiv="1"), "paper.arxiv: must match"),
    (lambda c: c["reported"][0].update(value=130.0), "reported.0.value: .* less than or equal to 100"),
    (lambda c: c["reported"][1].update(origin="memory"), "reported.1.origin: .* 'not verified', got 'memory'"),
    (lambda c: c["reported"][0].pop("source"), "'reported.0.source' is missing"),
    (lambda c: c["reported"][0].update(setings=""), "unknown key 'reported.0.setings'; did you mean 'setting'"),
    (lambda c: c.update(note=""), "note: "),
    (lambda c: c.update(agreement="agrees"), "agreement is 'agrees', but the measured figures say 'not measured'"),
    (lambda c: c.update(method="other"), "method: 'other' is not the file's name"),
])  # fmt: skip
def test_faults_name_file_and_key(folder, change, message):
    path = folder / "antidote.json"
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))
    with pytest.raises(DataError, match=rf"antidote\.json: .*{message}"):
        read_cards(folder)


def test_broken_json_is_named_by_line(folder):
    (folder / "antidote.json").write_text('{\n"method": }')
    with pytest.raises(DataError, match=r"antidote\.json:2: is not JSON"):
        read_cards(folder)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no card"):
        read_cards(tmp_path)


def test_check_names_missing_unregistered_and_faulty_cards(folder):
    shutil.copy(folder / "wise_ft.json", folder / "gone.json")
    (folder / "antidote.json").write_text("{}")
    faulty, misnamed, missing, unknown = check_cards(folder, ["antidote", "wise_ft", "vaccine"])
    assert "antidote.json: 'method' is missing" in faulty
    assert "gone.json: method: 'wise_ft'" in misnamed
    assert missing == f"{folder}/vaccine.json: missing; every method has a card"
    assert unknown == f"{folder}/gone.json: no method is called 'gone'"


@pytest.mark.parametrize(("harmful", "correct", "verdict"), [
    (30, 88, "agrees"),
    (30, 86, "agrees"),
    (30, 85, "disagrees"),
    (58, 90, "disagrees"),
    (90, 90, "disagrees"),
])  # fmt: skip
def test_the_rule_compares_directions_only(cards, harmful, correct, verdict):
    measured = measure_cards.measure(cards["antidote"], results(antidote=(harmful, correct)))
    assert measured.agreement == agreement(measured) == verdict
    assert f"harmful score 60.0 → {harmful:.1f} %" in measured.note
    assert ("not as claimed" in measured.note) == (verdict == "disagrees")


def test_a_wide_interval_is_no_effect(cards):
    run = results(antidote=(40, 90))
    assert measure_cards.measure(cards["antidote"], run).agreement == "agrees"
    for variant in run.variants:
        score = variant.harmful_score
        score.low, score.high = max(0.0, score.value - 0.15), score.value + 0.15
    run.variants[0].harmful_score.high = 0.1
    assert measure_cards.measure(cards["antidote"], run).agreement == "disagrees"


def test_figures_carry_interval_reference_and_origin(cards):
    measured = measure_cards.measure(cards["antidote"], results(antidote=(30, 88)), "docs/comparison.json").measured
    score, accuracy = measured
    low, high = (100 * end for end in Score.of(270, N)[1:3])
    assert (score.metric, score.value, score.undefended.value) == ("harmful_score", 30.0, 60.0)
    assert (score.low, score.high) == pytest.approx((low, high), abs=0.01)
    assert (accuracy.metric, accuracy.value, accuracy.undefended.value) == ("finetune_accuracy", 88.0, 90.0)
    assert score.variant == "antidote: antidote (strength auto)"
    assert "miniature:base, 704 user rows, 20 % harmful" in score.setting
    assert (score.date.isoformat(), score.seeds, score.results) == ("2026-01-02", [0, 1], "docs/comparison.json")
    assert score.command == "mithridate run comparison.yaml"


def test_chains_count_for_no_card_but_that_of_one_paper_does(cards):
    run = results(chain=(1, 90), antibody=(5, 89))
    assert measure_cards.measure(cards["antidote"], run) == cards["antidote"]
    for name in ("antibody_alignment", "antibody_tuning"):
        measured = measure_cards.measure(cards[name], run)
        assert [trial.facts.methods for trial in trials(measured)] == [["antibody_alignment", "antibody_tuning"]]
        assert measured.agreement == "agrees"


def test_one_stage_of_a_claim_for_two_is_not_comparable(cards):
    run = results(antibody=(5, 89))
    run.variants[-1].finetuning = "sft"
    measured = measure_cards.measure(cards["antibody_alignment"], run)
    assert len(measured.measured) == 2
    assert measured.agreement == "not comparable"
    assert measure_cards.measure(cards["antibody_tuning"], run) == cards["antibody_tuning"]


def test_a_control_is_not_comparable(cards):
    measured = measure_cards.measure(cards["random_perturbation"], results(random=(1, 90)))
    assert measured.agreement == "not comparable"
    assert "no claim to test" in measured.note


def test_the_same_command_replaces_and_another_adds(cards):
    once = measure_cards.measure(cards["antidote"], results(antidote=(30, 88)))
    again = measure_cards.measure(once, results(antidote=(59, 88)))
    assert [figure.value for figure in again.measured] == [59.0, 88.0]
    other = results(antidote=(30, 88))
    other.command = "mithridate run other.yaml"
    both = measure_cards.measure(again, other)
    assert [figure.value for figure in both.measured] == [59.0, 88.0, 30.0, 88.0]
    assert both.agreement == "disagrees", "every trial must agree"


def test_an_attack_without_effect_is_refused(cards):
    with pytest.raises(DataError, match="undefended: the attack did not clearly raise the harmful score over clean's"):
        measure_cards.measure(cards["antidote"], results(undefended=(3, 90), antidote=(1, 90)))


def test_the_reference_must_be_under_the_same_attack(cards):
    run = results(antidote=(30, 88))
    run.variants[-1].attack.ratio = 0.1
    with pytest.raises(DataError, match="antidote: no undefended variant has the same attack"):
        measure_cards.measure(cards["antidote"], run)


@pytest.mark.parametrize("name", ["command", "created", "seeds"])
def test_results_must_say_where_they_are_from(cards, name):
    run = results(antidote=(30, 88))
    setattr(run, name, [] if name == "seeds" else None)
    with pytest.raises(DataError, match=f"have no '{name}'"):
        measure_cards.measure(cards["antidote"], run)


def test_the_tool_writes_the_cards_of_a_run_only(tmp_path, folder, capsys):
    before = (folder / "wise_ft.json").read_text()
    path = tmp_path / "run" / "results.json"
    path.parent.mkdir()
    path.write_text(results(antidote=(30, 88)).model_dump_json())
    measure_cards.main(path, folder)
    assert (folder / "wise_ft.json").read_text() == before
    assert read_cards(folder)["antidote"].agreement == "agrees"
    assert capsys.readouterr().out.startswith("antidote: agrees.")


def page_of(cards, run):
    infos = methods()
    known = {name: cards.get(name, cards["sft"].model_copy(update={"method": name})) for name in infos}
    return which_defense.page(infos, {name: measure_cards.measure(card, run) for name, card in known.items()})


def line_of(page, start):
    return next(line for line in page.splitlines() if line.startswith(start))


def test_the_short_list_takes_the_lowest_score_at_a_low_price(cards):
    page = page_of(cards, results(antidote=(30, 89), panacea=(10, 85), random=(59, 90), antibody=(5, 90)))
    after = line_of(page, "- After fine-tuning:")
    assert "`antidote` (strength auto) has the lowest harmful score" in after
    assert "30.0 [" in after
    assert line_of(page, "- During fine-tuning:").endswith("nothing was measured.")
    assert "`antibody_alignment` (" in line_of(page, "- Before fine-tuning and during fine-tuning:")
    assert page.count("- Before fine-tuning and during fine-tuning:") == 1, "Antibody's run stands on two cards"


def test_over_refusal_is_told_where_it_was_measured(cards):
    run = results(antidote=(30, 89))
    for variant, refused in zip(run.variants, (1, 2, 7), strict=True):
        variant.over_refusal = type(variant.harmful_score).model_validate(Score.of(refused, 100).as_dict())
    page = page_of(cards, run)
    assert "; over-refusal 7.0 [" in line_of(page, "- After fine-tuning:")
    assert "against 2.0 | " in line_of(page, "| [`antidote`]")
    assert "| agrees |" in line_of(page, "| [`antidote`]")
    unmeasured = line_of(page_of(cards, results(antidote=(30, 89))), "- After fine-tuning:")
    assert "; over-refusal not measured; helpfulness not measured." in unmeasured


@pytest.mark.parametrize(("measure", "bare", "kept", "lost"), [("over_refusal", 2, 7, 8), ("helpfulness", 90, 85, 84)])
def test_what_answers_nobody_is_not_in_the_short_list(cards, measure, bare, kept, lost):
    for count, named in ((kept, True), (lost, False)):
        run = results(antidote=(30, 89))
        for variant, share in zip(run.variants, (bare, bare, count), strict=True):
            extra = {"aligned": 0.9} if measure == "helpfulness" else {}
            kind = Helpfulness if measure == "helpfulness" else ScoreOverSeeds
            setattr(variant, measure, kind.model_validate(Score.of(share, 100).as_dict() | extra))
        line = line_of(page_of(cards, run), "- After fine-tuning:")
        assert ("`antidote` (" in line) == named
        assert ("none lowers the harmful score clearly" in line) != named


def test_the_short_list_names_ties_and_says_when_nothing_helps(cards):
    tie = line_of(page_of(cards, results(antidote=(30, 89), panacea=(29, 89))), "- After fine-tuning:")
    assert "`panacea` (" in tie.split("has the lowest")[0]
    assert "overlaps with that of `antidote` (" in tie
    nothing = line_of(page_of(cards, results(antidote=(58, 90), panacea=(5, 80))), "- After fine-tuning:")
    assert "of 2 measured, none lowers the harmful score clearly" in nothing


def test_disagreement_is_flagged_and_explained(cards):
    page = page_of(cards, results(antidote=(58, 90)))
    assert "**disagrees**" in line_of(page, "| [`antidote`]")
    section = page.split("## Where our figures disagree")[1].split("\n## ")[0]
    assert "antidote: antidote (strength auto)" in section
    assert "Nowhere so far" not in section
    assert "Nowhere so far" in page_of(cards, results(antidote=(30, 90)))


def test_a_method_without_card_stops_the_page(cards):
    with pytest.raises(DataError, match="antidote: no card"):
        which_defense.page(methods(), {name: card for name, card in cards.items() if name != "antidote"})


def test_a_card_may_be_called_not_comparable_by_hand(cards):
    measured = measure_cards.measure(cards["antidote"], results(antidote=(58, 90)))
    by_hand = Card.model_validate(measured.model_dump() | {"agreement": "not comparable"})
    assert by_hand.agreement == "not comparable"
    with pytest.raises(ValueError, match="the measured figures say 'disagrees'"):
        Card.model_validate(measured.model_dump() | {"agreement": "agrees"})


def test_answers_of_a_comparison_go_to_the_methods_they_are_about(cards):
    answer = built(Answer, name="Panacea beats noise", claim="It does.", verdict="supported", sentence="So it was.")
    open_ = built(Answer, name="Row weights find harmful rows", verdict="not measured")
    said = results(antidote=(30, 88)).model_copy(update={"claims": [answer, open_]})
    changed = measure_claims.answered(cards, said, "docs/results/x")
    assert list(changed) == ["panacea"]
    (claim,) = [c for c in changed["panacea"].claims if c.command == said.command]
    assert (claim.verdict, claim.why, claim.date.isoformat()) == ("supported", "So it was.", "2026-01-02")
    assert measure_claims.answered(changed, said, "docs/results/x") == {}, "the same answer is not added twice"
    page = which_defense.page(methods(), cards | changed)
    assert "*It does.* **Supported.** So it was." in page
