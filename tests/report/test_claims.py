"""Every claim on made-up cells whose answer is known, in both directions."""

import pytest

from mithridate.report.axis_results import Claim, Setting
from mithridate.report.claims import answer_claims as answers
from mithridate.report.results import Results, VariantResult
from mithridate.report.roles import comparable, defended_at
from tests.report.made_up_axes import BASE, true_harm, variant, world

FLAT, BREAKS, BEATS, SEPARATES = range(4)


def verdicts(results: Results) -> list[str]:
    return [claim.verdict for claim in answers(results)]


def answer(results: Results, which: int) -> Claim:
    return answers(results)[which]


def test_a_world_where_all_claims_hold() -> None:
    assert verdicts(world()) == ["supported"] * 4


def test_a_world_where_none_holds() -> None:
    def harm(name: str, setting: Setting) -> float:
        pace = setting.learning_rate * setting.epochs
        return {"p0": 0.5, "p1": 0.4, "p2": 0.2 + 200 * pace}.get(name, 0.3)

    assert verdicts(world(harm, auc=0.5)) == ["not supported"] * 4


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_fewer_than_five_seeds_give_no_verdict(seeds: int) -> None:
    found = answers(world(seeds=seeds))
    assert [claim.verdict for claim in found] == ["not measured"] * 4
    assert all(f"needs 5 seeds; this run has {seeds}" in claim.sentence for claim in found)
    assert all(claim.rows for claim in found)


def test_ranges_and_their_difference_are_the_made_up_ones() -> None:
    rows = {row.what: row for row in answer(world(noise=1e-9), FLAT).rows}
    assert rows["learning rate: p2"].value == pytest.approx(0, abs=1e-3)
    assert rows["learning rate: p0"].value == pytest.approx(0.1 * (4 - 0.5), abs=1e-3)
    assert rows["epochs: p1"].value == pytest.approx(0.12 * (2 - 1 / 3), abs=1e-3)
    assert rows["epochs: range of p2 − range of p0"].value == pytest.approx(-0.1 * (2 - 1 / 3), abs=1e-3)
    assert rows["epochs: range of (p2 − p0)"].value == pytest.approx(0.1 * (2 - 1 / 3), abs=1e-3)


def test_one_rival_as_flat_as_antidote_is_enough_against_it() -> None:
    harm = lambda name, setting: 0.4 if name == "p1" else true_harm(name, setting)  # noqa: E731
    claim = answer(world(harm), FLAT)
    assert claim.verdict == "not supported"
    assert "range of p2 − range of p1" in claim.sentence
    assert "range of p0" not in claim.sentence


def test_a_rise_on_one_axis_alone_does_not_support_the_second_claim() -> None:
    def harm(name: str, setting: Setting) -> float:
        return true_harm(name, setting.model_copy(update={"epochs": 3}))

    claim = answer(world(harm), BREAKS)
    assert claim.verdict == "not supported"
    assert "epochs: p1" in claim.sentence
    rows = {row.what: row for row in claim.rows}
    assert rows["learning rate: p1"].value == pytest.approx(0.12 * 3.5, abs=0.03)
    assert rows["learning rate: p1"].seeds


def test_a_missing_axis_is_named() -> None:
    results = world()
    del results.axes["epochs"]
    for which in (FLAT, BREAKS):
        claim = answer(results, which)
        assert claim.verdict == "not measured"
        assert "not varied in epochs" in claim.sentence


def test_different_norms_are_not_compared() -> None:
    claim = answer(world(norm=1.2), BEATS)
    assert claim.verdict == "not measured"
    assert "different norms" in claim.sentence
    assert not claim.rows


def test_the_paired_difference_has_the_spread_of_the_differences() -> None:
    row = next(row for row in answer(world(), BEATS).rows if row.decides)
    assert row.value == pytest.approx(sum(row.seeds) / 5)
    assert row.value == pytest.approx(0.15 - 0.4, abs=0.02)


def test_an_auc_just_above_one_half_with_spread_is_no_support() -> None:
    assert answer(world(auc=0.51, noise=0.05), SEPARATES).verdict == "not supported"
    assert answer(world(auc=0.2), SEPARATES).verdict == "not supported"


def test_no_variant_to_answer_with() -> None:
    results = world()
    results.variants = results.variants[:1]
    found = answers(results)
    assert [claim.verdict for claim in found] == ["not measured"] * 4
    assert "No variant that was measured everywhere has Antidote alone." in found[FLAT].sentence


def test_a_variant_with_a_cell_missing_answers_no_claim_and_stops_no_other() -> None:
    results = world()
    lost = next(cell for cell in results.cells if cell.variant == "p2" and cell.setting != BASE)
    results.cells.remove(lost)
    found = answers(results)
    assert found[FLAT].verdict == "not measured"
    assert "Antidote alone" in found[FLAT].sentence
    assert [claim.verdict for claim in found[1:]] == ["supported"] * 3


@pytest.mark.parametrize(
    ("one", "stages"),
    [
        (variant("antidote"), []),
        (variant("x", alignment="none"), []),
        (variant("x", alignment="antibody_alignment"), ["alignment"]),
        (variant("x", finetuning="panacea_tuning"), ["finetuning"]),
        (variant("x", posttuning="antidote"), ["posttuning"]),
        (variant("x", alignment="antibody_alignment", posttuning="antidote"), ["alignment", "posttuning"]),
    ],
)
def test_where_a_variant_is_defended_comes_from_its_methods(one: VariantResult, stages: list[str]) -> None:
    assert defended_at(one) == stages


def test_a_variant_with_an_attack_of_its_own_is_not_comparable() -> None:
    results = world()
    results.variants.append(variant("clean", ratio=0.0))
    assert "clean" not in [one.name for one in comparable(results)]
