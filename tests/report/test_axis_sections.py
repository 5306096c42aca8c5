"""What axes add to the page and the plots: self-contained, with every claim; and the Pareto front."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from markupsafe import escape

from mithridate.report.cautions import cautions
from mithridate.report.claims import answer_claims
from mithridate.report.figures.axis_plots import styles
from mithridate.report.figures.plot_files import write_plots
from mithridate.report.front import pareto_front
from mithridate.report.page import page
from mithridate.report.results import Failure, Results
from mithridate.report.roles import methods
from tests.report.made_up_axes import BASE, world


@pytest.fixture(scope="module")
def made() -> Results:
    found = world()
    found.claims = answer_claims(found)
    return found


def test_the_page_of_a_run_with_axes_loads_nothing(made: Results) -> None:
    text = page(made)
    assert not re.search(r"<(script|link|iframe|img|object|form)\b", text)
    assert "default-src 'none'" in text
    assert not re.search(r"@import|url\((?!#)", text)
    assert "prefers-color-scheme: dark" in text


def test_the_page_answers_every_claim(made: Results) -> None:
    text = page(made)
    for claim in made.claims:
        assert escape(claim.sentence) in text
    assert "Of 4 claims, 4 supported." in text
    assert "By learning rate" in text
    assert "By user rows" not in text
    assert text == page(made)


def test_foreign_names_are_escaped(made: Results) -> None:
    evil = "<script>alert(1)</script>"
    changed = made.model_copy(deep=True)
    changed.variants[0].name = evil
    for point in changed.points:
        point.variant = evil if point.variant == "p0" else point.variant
    assert "<script" not in page(changed)


def test_no_color_of_a_drawing_is_left_to_light_pages_alone(made: Results) -> None:
    text = page(made)
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 2 + 4 + 2  # scores, claims, axes
    for drawing in drawings:
        assert set(re.findall(r"#[0-9a-f]{6}\b", drawing)) == set()
    names = set(re.findall(r"var\(--([a-z0-9]+)\)", "".join(drawings)))
    assert "series1" in names
    assert all(len(re.findall(rf"--{name}:", text)) >= 3 for name in names)  # light, dark, print


def test_plots_are_files_with_colors_of_their_own(made: Results, tmp_path: Path) -> None:
    write_plots(made, tmp_path)
    assert {path.stem for path in tmp_path.glob("*.svg")} == {"learning_rate", "epochs", "pareto", "claims"}
    for path in tmp_path.glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        assert "var(--" not in path.read_text()
    text = (tmp_path / "claims.svg").read_text()
    assert all(f"{claim.name}: {claim.verdict}" in text for claim in made.claims)


def test_lines_differ_by_more_than_color(made: Results) -> None:
    looks = styles(made)
    assert len({(look["marker"], str(look["linestyle"])) for look in looks.values()}) == len(looks)
    assert len({look["color"] for look in looks.values()}) == len(looks)


def test_more_variants_than_colors_have_lines_that_differ(made: Results) -> None:
    one = next(variant for variant in made.variants if methods(variant))
    many = made.model_copy(update={"variants": [one.model_copy(update={"name": f"p{i}"}) for i in range(32)]})
    looks = {(look["color"], look["marker"], str(look["linestyle"])) for look in styles(many).values()}
    assert len(looks) == 32


def test_the_front_is_what_nobody_beats(made: Results) -> None:
    places = {v.name: (v.harmful_score.mean, v.finetune_accuracy.mean) for v in made.variants if v.finetune_accuracy}
    found = pareto_front(made)
    assert min(places, key=lambda name: places[name][0]) in found
    assert max(places, key=lambda name: places[name][1]) in found
    for name, (harm, use) in places.items():
        beaten = any(h <= harm and u >= use and (h, u) != (harm, use) for h, u in places.values())
        assert (name in found) == (not beaten)


def test_equal_variants_are_both_on_the_front_and_an_unattacked_one_is_not(made: Results) -> None:
    changed = made.model_copy(deep=True)
    changed.variants = changed.variants[:2]
    first, second = changed.variants
    second.harmful_score, second.finetune_accuracy = first.harmful_score, first.finetune_accuracy
    assert pareto_front(changed) == ["p0", "p1"]
    assert first.attack is not None
    first.attack.ratio = 0.0
    assert pareto_front(changed) == ["p1"]


def test_a_reader_is_told_what_seeds_vary_and_that_two_are_few(made: Results) -> None:
    assert any("Each alignment was trained once" in note for note in cautions(made))
    assert not any("A verdict needs" in note for note in cautions(made))
    assert any("A verdict needs 5 seeds and this run has 2," in note for note in cautions(world(seeds=2)))


@pytest.mark.parametrize(
    ("measure", "bare_share", "share", "words"),
    [
        ("over_refusal", 0.02, 0.36, "its over-refusal is 34.0 points above the undefended"),
        ("helpfulness", 0.95, 0.05, "its helpfulness is 90.0 points below the undefended"),
    ],
)
def test_no_place_on_the_front_for_what_answers_nobody(
    made: Results, measure: str, bare_share: float, share: float, words: str
) -> None:
    changed = made.model_copy(deep=True)
    named = {variant.name: variant for variant in changed.variants}
    bare, best = named["p0"], named["p5"]
    assert "p5" in pareto_front(changed)
    shaped = bare.harmful_score.model_dump() | {"low": 0.0, "high": 1.0, "aligned": 1.0}
    score = type(bare).model_fields[measure].annotation
    setattr(bare, measure, made_of(score, shaped | {"value": bare_share}))
    setattr(best, measure, made_of(score, shaped | {"value": share}))
    assert "p5" not in pareto_front(changed)
    assert f"p5 is kept off the front: {words}." in cautions(changed)
    setattr(best, measure, getattr(bare, measure))
    assert "p5" in pareto_front(changed)
    assert not any("kept off" in note for note in cautions(changed))


def made_of(annotation: object, tree: dict[str, object]) -> object:
    """A score of the type that a field asks for."""
    from pydantic import TypeAdapter

    return TypeAdapter(annotation).validate_python(tree)


def test_what_cannot_act_is_told_with_its_reason_and_places(made: Results) -> None:
    changed = made.model_copy(deep=True)
    moved = BASE.model_copy(update={"epochs": 6})
    about = {"variant": "p3", "stage": "posttuning", "method": "panacea", "reason": "no dose fits"}
    changed.failures = [
        Failure(**about, setting=BASE, at_base=True, seed=2),
        Failure(**about, setting=moved, at_base=False, seed=0),
        Failure(**about, setting=moved, at_base=False, seed=4),
    ]
    sentence = (
        "p3: panacea cannot act at post-tuning (at the recipe's setting, seed 2; at epochs 6, seeds 0, 4): no dose fits"
    )
    assert sentence in cautions(changed)
    assert escape(sentence) in page(changed)


def test_what_was_not_measured_is_told(made: Results) -> None:
    for words in ("Over-refusal was not measured", "Helpfulness was not measured"):
        assert sum(words in note for note in cautions(made)) == 1
