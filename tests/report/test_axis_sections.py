"""The page and the plots: self-contained, without scripts, with every claim; and the Pareto front."""

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from markupsafe import escape
from mithridate.compare.claims import answers
from mithridate.compare.figures import styles, write_plots
from mithridate.compare.measure import front
from mithridate.compare.page import cautions, page
from mithridate.compare.results import Comparison

from tests.compare.conftest import Ran, world


@pytest.fixture(scope="module")
def made() -> Comparison:
    found = world()
    found.claims = answers(found)
    return found


class Links(HTMLParser):
    """Collects everything that could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [
            value or "" for name, value in attrs if name in ("href", "src", "srcset", "xlink:href", "action")
        ]


def test_the_page_loads_nothing_and_runs_nothing(ran: Ran) -> None:
    text = (ran.folder / "comparison.html").read_text(encoding="utf-8")
    found = Links()
    found.feed(text)
    assert not found.tags & {"script", "link", "iframe", "img", "object", "form"}
    assert all(link.startswith("#") for link in found.links)
    assert "default-src 'none'" in text
    assert not re.search(r"@import|url\((?!#)", text)
    assert "prefers-color-scheme: dark" in text


def test_the_page_answers_every_claim(made: Comparison) -> None:
    text = page(made)
    for claim in made.claims:
        assert escape(claim.sentence) in text
    assert "Of 4 claims, 4 supported." in text
    assert "By learning rate" in text
    assert "By user rows" not in text
    assert text == page(made)


def test_foreign_names_are_escaped(made: Comparison) -> None:
    evil = "<script>alert(1)</script>"
    changed = made.model_copy(deep=True)
    changed.pipelines[0].name = evil
    for point in changed.points:
        point.pipeline = evil if point.pipeline == "p0" else point.pipeline
    assert "<script" not in page(changed)


def test_no_color_of_a_drawing_is_left_to_light_pages_alone(made: Comparison) -> None:
    text = page(made)
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 1 + 4 + 2
    for drawing in drawings:
        assert set(re.findall(r"#[0-9a-f]{6}\b", drawing)) == set()
    names = set(re.findall(r"var\(--([a-z0-9]+)\)", "".join(drawings)))
    assert "series1" in names
    assert all(len(re.findall(rf"--{name}:", text)) >= 3 for name in names)  # light, dark, print


def test_plots_are_files_with_colors_of_their_own(made: Comparison, tmp_path: Path) -> None:
    write_plots(made, tmp_path)
    assert {path.stem for path in tmp_path.glob("*.svg")} == {"learning_rate", "epochs", "pareto", "claims"}
    for path in tmp_path.glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        assert "var(--" not in path.read_text()
    text = (tmp_path / "claims.svg").read_text()
    assert all(f"{claim.name}: {claim.verdict}" in text for claim in made.claims)


def test_lines_differ_by_more_than_color(made: Comparison) -> None:
    looks = styles(made.pipelines)
    assert len({(look["marker"], str(look["linestyle"])) for look in looks.values()}) == len(looks)
    assert len({look["color"] for look in looks.values()}) == len(looks)


def test_the_front_is_what_nobody_beats(made: Comparison) -> None:
    at_base = [point for point in made.points if point.setting == made.base]
    places = {p.pipeline: (p.harmful_score.seed_mean, p.finetune_accuracy.seed_mean) for p in at_base}
    found = front(made.pipelines, at_base)
    assert min(places, key=lambda name: places[name][0]) in found
    assert max(places, key=lambda name: places[name][1]) in found
    for name, (harm, use) in places.items():
        beaten = any(h <= harm and u >= use and (h, u) != (harm, use) for h, u in places.values())
        assert (name in found) == (not beaten)


def test_equal_pipelines_are_both_on_the_front_and_an_unattacked_one_is_not(made: Comparison) -> None:
    first, second = made.points[0], made.points[0].model_copy(update={"pipeline": "p1"})
    pair = made.pipelines[:2]
    assert front(pair, [first, second]) == ["p0", "p1"]
    apart = [pair[0].model_copy(update={"role": "attack of its own"}), pair[1]]
    assert front(apart, [first, second]) == ["p1"]


def test_a_reader_is_told_what_seeds_vary_and_that_two_are_few(ran: Ran, made: Comparison) -> None:
    assert any("Each alignment was trained once" in note for note in cautions(made))
    assert any("2 of the 5 seeds" in note for note in cautions(ran.comparison))


@pytest.mark.parametrize(
    ("measure", "bare_share", "share", "words"),
    [
        ("over_refusal", 0.02, 0.36, "its over-refusal is 34.0 points above the undefended"),
        ("helpfulness", 0.95, 0.05, "its helpfulness is 90.0 points below the undefended"),
    ],
)
def test_no_place_on_the_front_for_what_answers_nobody(
    made: Comparison, measure: str, bare_share: float, share: float, words: str
) -> None:
    changed = made.model_copy(deep=True)
    bare, best = (changed.point(name, changed.base) for name in ("p0", "p5"))
    assert bare is not None
    assert best is not None
    at_base = [point for point in changed.points if point.setting == changed.base]
    assert "p5" in front(changed.pipelines, at_base)
    setattr(bare, measure, bare.harmful_score.model_copy(update={"seed_mean": bare_share}))
    setattr(best, measure, bare.harmful_score.model_copy(update={"seed_mean": share}))
    assert "p5" not in front(changed.pipelines, at_base)
    assert f"p5 is kept off the front: {words}." in cautions(changed)
    setattr(best, measure, getattr(bare, measure))
    assert "p5" in front(changed.pipelines, at_base)
    assert not any("kept off" in note for note in cautions(changed))


def test_what_was_not_measured_is_told(made: Comparison, ran: Ran) -> None:
    for words in ("Over-refusal was not measured", "Helpfulness was not measured"):
        assert sum(words in note for note in cautions(made)) == 1
        assert not any(words in note for note in cautions(ran.comparison))


def test_helpfulness_is_in_cells_and_tables(ran: Ran) -> None:
    assert all(cell.helpfulness is not None and cell.helpfulness.n == 8 for cell in ran.comparison.cells)
    assert "Helpful ↑" in (ran.folder / "comparison.html").read_text(encoding="utf-8")
