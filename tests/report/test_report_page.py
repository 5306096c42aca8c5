import errno
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mithridate.errors import DataError, MithridateError
from mithridate.report import figure_sections, load_results, write_report
from mithridate.report.result_tables import MAIN_COLUMNS, cost_rows, main_rows, outcome_rows
from tests.helpers.drawing import blank_figures

VOID = {"meta", "br", "wbr", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Collects tags, attributes, visible text and ids, and checks that tags are closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag in {"td", "th", "p", "small"}:
            self.words.append(" ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


@pytest.fixture
def blank(request: pytest.FixtureRequest) -> Iterator[None]:
    """Figures are not drawn, for what stands beside them."""
    with blank_figures(request.config):
        yield


def write(tree: dict[str, Any], folder: Path) -> str:
    path = folder / "report.html"
    write_report(tree, path)
    return path.read_text(encoding="utf-8")


def test_equal_results_give_equal_bytes(run: dict[str, Any], report: str, tmp_path: Path) -> None:
    assert write(run, tmp_path) == report


def test_the_users_plot_settings_change_nothing(run: dict[str, Any], report: str, tmp_path: Path) -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert write(run, tmp_path) == report


def test_has_no_scripts_and_loads_nothing(report: str) -> None:
    page = Page(report)
    assert "<script" not in report.lower()
    assert not {"script", "iframe", "object", "embed", "link", "img", "base", "form"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in {"src", "href", "xlink:href", "action", "srcset"}:
            assert value.startswith("#") or (tag, value) == ("a", "answers.html"), (tag, name, value)
    assert set(re.findall(r"url\(([^)]*)\)", report)) <= set(re.findall(r"url\((#[^)]*)\)", report))
    assert "@import" not in report


def test_is_well_formed_with_distinct_ids(report: str) -> None:
    page = Page(report)
    assert page.open == []
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 100
    used = {value.removeprefix("#") for tag, name, value in page.attributes if name == "href" and tag != "a"}
    used |= set(re.findall(r"url\(#([^)]*)\)", report))
    assert used <= set(ids)


def test_hostile_text_is_shown_as_text(report: str) -> None:
    assert "&lt;script&gt;alert(" in report
    assert 'chain <script>alert("fixture")</script>' in Page(report).text


def test_every_figure_of_both_tables_is_on_the_page(run: dict[str, Any], report: str) -> None:
    results, text = load_results(run), Page(report).text
    cells = [cell for row in main_rows(results) + cost_rows(results) for cell in row]
    assert len(cells) == 7 * 11 + 7 * 6
    for cell in cells + [cell for row in outcome_rows(results) for cell in row]:
        assert cell.main in text
        assert " ".join(cell.note.split()) in text
    for figure in ("72.6%", "[69.0, 76.2]", "73.9%", "91.1%", "[89.7, 92.5]", "2.1%", "−17.8 points", "p = 0.002"):
        assert figure in text


def test_every_part_of_a_full_run_is_on_the_page(report: str) -> None:
    page = Page(report)
    for heading in (
        "Results",
        "Safety and usefulness",
        "What the answers are",
        "Answers before and after",
        "Answers of every variant",
        "Loss curves",
        "Row weights",
        "Dose curves",
        "Layer profile",
        "Cost",
        "Proof of activity",
        "Provenance",
        "Resolved recipe",
    ):
        assert heading in page.words
    assert page.tags.count("svg") == 10
    for shown in (
        "mithridate run recipes/fixture.yaml --set attack.ratio=0.2 --out runs/fixture",
        "sha256:" + "ab" * 32,
        "sha256:" + "cd" * 32,
        "model: miniature:base",
        "weight_entropy 2.31",
        "0.2 … 0.5 (5 values)",
        "budget 0.05",
        "safe rows' budget 0.01",
        "the user's rows (solid) and the provider's safe rows (dashed)",
        "480 rows trained",
        "Chosen: 0.1, 0.15 (ringed)",
        "Harmful rows are 20.0% of the rows",
        "harmless stand-ins",
        "(empty answer)",
        "Judge: refusal, rules on the form",
        "always giving the most common answer has 51.3%",
        "Of 231 prompts that the undefended model answers harmfully at the first seed, 200 are stopped and 31 are",
    ):
        assert shown in page.text


def test_a_long_answer_is_cut_and_says_so(report: str) -> None:
    assert "Shortened: 14,500 more characters" in Page(report).text
    assert len(report) < 400_000


def test_missing_parts_are_not_shown(smallest: dict[str, Any], tmp_path: Path) -> None:
    page = Page(write(smallest, tmp_path))
    assert "50.0%" in page.text
    for heading in ("Answers before and after", "Row weights", "Dose curves", "Layer profile", "Cost", "Provenance"):
        assert heading not in page.words
    assert page.tags.count("svg") == 1


@pytest.mark.usefixtures("blank")
@pytest.mark.parametrize(
    "part",
    ["finetune_accuracy", "harmful_score_plus", "over_refusal", "versus_reference", "cost", "row_weights", "attack"],
)
def test_each_optional_part_may_be_missing(run: dict[str, Any], part: str, tmp_path: Path) -> None:
    run["variants"] = run["variants"][1:3]
    for variant in run["variants"]:
        variant.pop(part, None)
    assert "72.6%" in Page(write(run, tmp_path)).text


def test_curves_and_profiles_without_points_are_left_out(smallest: dict[str, Any], tmp_path: Path) -> None:
    smallest["variants"][0] |= {
        "dose_curves": [{"method": "antidote", "parameter": "mask_ratio"}],
        "layer_profiles": [{"method": "panacea", "layers": []}],
        "row_weights": {"rows": []},
    }
    assert Page(write(smallest, tmp_path)).tags.count("svg") == 1


def test_a_curve_with_losses_that_are_not_finite_is_drawn(smallest: dict[str, Any], tmp_path: Path) -> None:
    points = [{"dose": 0.1, "rise": 0.01}, {"dose": 0.2, "rise": float("inf"), "harmful_loss": float("nan")}]
    curve = {"method": "antidote", "parameter": "mask_ratio", "chosen": 0.1, "points": points}
    smallest["variants"][0]["dose_curves"] = [curve]
    assert Page(write(smallest, tmp_path)).tags.count("svg") == 2


@pytest.mark.usefixtures("blank")
def test_answers_of_a_real_model_stay_closed_behind_a_warning(run: dict[str, Any], tmp_path: Path) -> None:
    run["variants"] = run["variants"][:2]
    run["recipe"]["model"] = {"name": "someone/a-model"}
    page = Page(write(run, tmp_path))
    assert "stand-ins" not in page.text
    assert "It may be harmful or offensive." in page.text
    assert "Show 2 answers" in page.text


def test_unprintable_text_becomes_visible(run: dict[str, Any], tmp_path: Path) -> None:
    run["escapes"][0]["after"]["answer"] = "lone \ud800 reversed \u202e bell \x07 end"
    run["variants"][2]["name"] = "anti\x1b[31mbody $x^2$"
    text = Page(write(run, tmp_path)).text
    assert "lone � reversed � bell � end" in text
    assert "anti�[31mbody $x^2$" in text


@pytest.mark.usefixtures("blank")
def test_a_failed_write_leaves_the_old_report(
    run: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(MithridateError, match=r"report\.html: the report cannot be written \(No space left"):
        write_report(run, path)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "old"


def test_broken_results_write_nothing(tmp_path: Path) -> None:
    source = tmp_path / "results.json"
    source.write_text("{}")
    with pytest.raises(DataError, match="variants: Field required"):
        write_report(source, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.usefixtures("blank")
def test_the_judge_stands_at_the_top_and_is_told_apart(run: dict[str, Any], tmp_path: Path) -> None:
    run["judge"] = "classifier:someone/a-judge"
    text = Page(write(run, tmp_path)).text
    assert "Judge: classifier:someone/a-judge" in text
    assert "rules on the form" not in text
    assert text.index("Judge:") < text.index("Results HS,")


@pytest.mark.usefixtures("blank")
def test_a_verdict_stands_beside_every_answer(run: dict[str, Any], tmp_path: Path) -> None:
    run["escapes"][1]["after"] |= {"harmful": True, "outcome": "broken", "reason": "complies"}
    source = write(run, tmp_path)
    marks = [found.strip() for found in re.findall(r'<p class="found"><b class="\w+">([^<]*)</b>', source)]
    assert marks == [
        "harmful",
        "not harmful, refused",
        "harmful, broken",  # an escape that stayed harmful
        "harmful, broken",
        "label only",
        "complied",
        "wrong",
    ]
    assert "expected: positive" in Page(source).text


def test_trainings_that_variants_share_are_drawn_once(run: dict[str, Any]) -> None:
    figures = figure_sections.loss_figures(load_results(run))
    assert [figure.title for figure in figures] == ["Fine-tuning"]
    assert "clean, undefended, antidote, random" in figures[0].svg
    for variant in run["variants"]:
        variant["loss_curves"] = []
    assert figure_sections.loss_figures(load_results(run)) == []


@pytest.mark.usefixtures("blank")
def test_no_outcomes_no_section(run: dict[str, Any], tmp_path: Path) -> None:
    for variant in run["variants"]:
        variant["outcomes"] = {}
    assert "What the answers are" not in Page(write(run, tmp_path)).words


def test_cells_of_the_main_table_carry_their_column_for_narrow_screens(report: str) -> None:
    columns = [value for tag, name, value in Page(report).attributes if (tag, name) == ("td", "data-column")]
    assert columns[:10] == [column.title for column in MAIN_COLUMNS[1:]]
