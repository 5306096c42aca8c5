"""Tables as CSV, Markdown and LaTeX."""

import csv
import re
from pathlib import Path

import pytest
from mithridate.compare.claims import answers
from mithridate.compare.tables import axis_tables, base_table, value_text, write_tables
from mithridate.compare.tex import escaped, tex_table

from tests.compare.conftest import world

NASTY = r"a_b & 50% {x} \cmd #1 $y$ ^~ <|>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made, out = world(), tmp_path_factory.mktemp("tables")
    made.claims = answers(made)
    write_tables(made, out)
    return out


def test_every_table_is_there_in_three_forms(folder: Path) -> None:
    names = {
        f"{stem}.{end}" for stem in ("learning_rate", "epochs", "pareto", "claims") for end in ("csv", "md", "tex")
    }
    assert {path.name for path in folder.iterdir()} == names


def test_csv_holds_both_intervals_under_their_names(folder: Path) -> None:
    made = world()
    lines = list(csv.DictReader((folder / "epochs.csv").open(encoding="utf-8")))
    assert len(lines) == 6 * 3 * 2
    line = next(
        x for x in lines if x["pipeline"] == "p0" and float(x["epochs"]) == 6 and x["measure"] == "harmful_score"
    )
    point = made.point("p0", made.base.model_copy(update={"epochs": 6}))
    assert point is not None
    assert point.harmful_score.seed_t95 is not None
    assert float(line["seed_mean"]) == point.harmful_score.seed_mean
    assert float(line["seed_t95_low"]) == point.harmful_score.seed_t95.low
    assert float(line["pooled_wilson95_high"]) == point.harmful_score.pooled_wilson95.high
    assert [float(x) for x in line["seeds"].split()] == pytest.approx(point.harmful_score.seeds, rel=1e-5)
    front = {x["pipeline"] for x in csv.DictReader((folder / "pareto.csv").open()) if x["on_front"] == "True"}
    assert front == set(made.front)


def test_markdown_shows_the_mean_with_its_interval(folder: Path) -> None:
    made = world()
    point = made.point("p1", made.along("learning_rate")[-1])
    assert point is not None
    assert point.harmful_score.seed_t95 is not None
    ends = point.harmful_score.seed_t95
    shown = f"{100 * point.harmful_score.seed_mean:.1f} [{100 * ends.low:.1f}, {100 * ends.high:.1f}]"
    text = (folder / "learning_rate.md").read_text(encoding="utf-8")
    assert shown in text
    assert "| Pipeline | 5e-5 | 1e-4 | 2e-4 | 4e-4 |" in text
    assert "Student's t over seeds" in text
    assert "Over-refusal" not in text  # was not measured


def test_tex_is_balanced_and_has_as_many_cells_as_columns(folder: Path) -> None:
    for path in folder.glob("*.tex"):
        text = path.read_text(encoding="utf-8")
        assert text.isascii(), path
        assert text.count("\\begin{tabular}") == text.count("\\end{tabular}") > 0
        for layout, body in re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
            for row in re.search(r"\\midrule(.*?)\\bottomrule", body, re.DOTALL)[1].strip().splitlines():
                assert len(re.findall(r"(?<!\\)&", row)) == len(layout) - 1


def test_tex_escapes_every_special_character_once() -> None:
    assert escaped("50% of a_b") == r"50\% of a\_b"
    assert escaped("\\{") == r"\textbackslash{}\{"
    text = escaped(NASTY)
    plain = re.sub(r"\\(textbackslash|textasciicircum|textasciitilde|textless|textgreater|textbar)\{\}", "", text)
    assert not re.search(r"(?<!\\)[&%$#_{}~^<>|]", plain)
    made = world()
    made.pipelines = [made.pipelines[0].model_copy(update={"name": NASTY})]
    assert text in tex_table([base_table(made)], NASTY)


def test_a_pipeline_that_was_not_measured_is_left_out_of_the_axis() -> None:
    made = world()
    made.points = [p for p in made.points if p.pipeline != "p3" or p.setting == made.base]
    assert [row[0].main for row in axis_tables(made, "epochs")[0].rows] == ["p0", "p1", "p2", "p4", "p5"]
    assert [row[0].main for row in base_table(made).rows] == ["p0", "p1", "p2", "p3", "p4", "p5"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(6e-5, "6e-5"), (1.2e-4, "1.2e-4"), (0.05, "0.05"), (12.0, "12"), (1408, "1408"), (0.001, "1e-3")],
)
def test_axis_values_are_short(value: float, text: str) -> None:
    assert value_text(value) == text
