"""Tables as CSV, Markdown and LaTeX."""

import csv
import re
from pathlib import Path

import pytest

from mithridate.report.axis_results import Setting
from mithridate.report.axis_tables import axis_tables, base_table, value_text, write_tables
from mithridate.report.claims import answer_claims
from mithridate.report.latex import escaped, tex_table
from mithridate.report.results import AlignedModel, Failure
from tests.report.made_up_axes import BASE, share, world

NASTY = r"a_b & 50% {x} \cmd #1 $y$ ^~ <|>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made, out = world(), tmp_path_factory.mktemp("tables")
    made.claims = answer_claims(made)
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
        x for x in lines if x["variant"] == "p0" and float(x["epochs"]) == 6 and x["measure"] == "harmful_score"
    )
    point = made.point("p0", made.base.model_copy(update={"epochs": 6}))
    assert point is not None
    assert point.harmful_score.seed_low is not None
    assert float(line["seed_mean"]) == point.harmful_score.seed_mean
    assert float(line["seed_t95_low"]) == point.harmful_score.seed_low
    assert float(line["pooled_wilson95_high"]) == point.harmful_score.high
    assert [float(x) for x in line["seeds"].split()] == pytest.approx(point.harmful_score.seeds, rel=1e-5)
    front = {x["variant"] for x in csv.DictReader((folder / "pareto.csv").open()) if x["on_front"] == "True"}
    assert front == set(made.front)


def test_markdown_shows_the_mean_with_its_interval(folder: Path) -> None:
    made = world()
    point = made.point("p1", made.along("learning_rate")[-1])
    assert point is not None
    assert point.harmful_score.seed_low is not None
    low, high = point.harmful_score.spread
    shown = f"{100 * point.harmful_score.mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    text = (folder / "learning_rate.md").read_text(encoding="utf-8")
    assert shown in text
    assert "| Variant | 5e-5 | 1e-4 | 2e-4 | 4e-4 |" in text
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
    made.variants[0].name = NASTY
    assert text in tex_table([base_table(made)], NASTY)


def failure(name: str, setting: Setting, seed: int) -> Failure:
    return Failure(
        variant=name, setting=setting, at_base=False, seed=seed, stage="posttuning", method="panacea", reason="no dose"
    )


def test_a_variant_that_was_not_tried_is_left_out_of_the_axis() -> None:
    made = world()
    made.points = [p for p in made.points if p.variant != "p3" or p.setting == made.base]
    assert [row[0].main for row in axis_tables(made, "epochs")[0].rows] == ["p0", "p1", "p2", "p4", "p5"]
    assert [row[0].main for row in base_table(made).rows] == ["p0", "p1", "p2", "p3", "p4", "p5"]


def test_a_harmful_score_says_how_much_of_it_is_broken_text() -> None:
    """An attack that breaks a model must not pass for one that succeeds."""
    made = world()
    made.points = [
        point.model_copy(update={"broken_harmful": 0.3 if (point.variant, point.setting.epochs) == ("p3", 6) else 0.01})
        for point in made.points
    ]
    harm, accuracy = axis_tables(made, "epochs")[:2]
    told = [cell.note.endswith("] 30.0% broken text") for row in harm.rows for cell in row[1:]]
    assert sum(told) == 1
    assert all("broken" not in cell.note for row in accuracy.rows for cell in row)


def test_a_cell_in_which_a_method_cannot_act_says_so() -> None:
    made = world()
    lost = BASE.model_copy(update={"epochs": 6})
    made.points = [p for p in made.points if (p.variant, p.setting) != ("p3", lost)]
    made.failures = [failure("p3", lost, seed) for seed in made.seeds]
    rows = {row[0].main: row for row in axis_tables(made, "epochs")[0].rows}
    assert [cell.main for cell in rows["p3"][1:]][-1] == "cannot act"
    assert rows["p3"][1].main != "cannot act"
    assert len(base_table(made).rows) == 6
    made.failures[0].variant, made.failures[0].at_base = "p9", True
    assert [cell.main for cell in base_table(made).rows[-1]] == ["p9", "cannot act", "cannot act"] + ["cannot act"] * 2


def test_fewer_seeds_than_the_run_has_are_told_in_the_cell() -> None:
    made = world()
    point = made.point("p3", BASE.model_copy(update={"epochs": 6}))
    assert point is not None
    point.harmful_score.seeds.pop()
    rows = {row[0].main: row for row in axis_tables(made, "epochs")[0].rows}
    assert "4 of 5 seeds" in rows["p3"][-1].note
    assert "of 5 seeds" not in rows["p2"][-1].note


def test_the_model_before_fine_tuning_stands_in_tables_of_fine_tuning_alone() -> None:
    made = world()
    made.aligned = [AlignedModel(name="aligned", alignment="sft", harmful_score=share(0.25))]
    made.axes["alignment_epochs"] = [2]
    assert [cell.main for cell in axis_tables(made, "epochs")[0].rows[0]] == ["aligned", "25.0", "25.0", "25.0"]
    assert axis_tables(made, "alignment_epochs")[0].rows[0][0].main == "p0"
    assert base_table(made).rows[0][0].main == "aligned"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (6e-5, "6e-5"),
        (1.2e-4, "1.2e-4"),
        (0.05, "0.05"),
        (12.0, "12"),
        (1408, "1408"),
        (0.001, "1e-3"),
        (10_000, "10000"),
        (0.0, "0"),
    ],
)
def test_axis_values_are_short(value: float, text: str) -> None:
    assert value_text(value) == text
