from io import StringIO
from typing import Any

from rich.console import Console

from mithridate.report import as_markdown, as_rich_table, load_results
from mithridate.report.result_tables import cost_rows, outcome_rows


def test_markdown_has_a_row_per_variant_and_a_cell_per_column(run: dict[str, Any]) -> None:
    lines = as_markdown(run).splitlines()
    assert len(lines) == 2 + len(run["variants"])
    assert {line.count("|") for line in lines} == {12}
    assert "72.6% [69.0, 76.2]" in lines[3]
    assert "−17.8 points (p = 0.002)" in lines[5]


def test_markdown_of_hostile_names_stays_a_table(smallest: dict[str, Any]) -> None:
    smallest["variants"][0]["name"] = "a|b\n<b>*c*_d_`e`"
    lines = as_markdown(smallest).splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("| a\\|b�&lt;b&gt;\\*c\\*\\_d\\_\\`e\\` | none |")


def test_markdown_shows_what_is_missing_as_a_dash(smallest: dict[str, Any]) -> None:
    expected = "| only | none | none | none | 50.0% [40.0, 60.0] | – | – | – | – | – | – |"
    assert as_markdown(smallest).splitlines()[2] == expected


def test_terminal_table_fits_80_columns_and_reads_no_markup(run: dict[str, Any]) -> None:
    run["variants"][2]["name"] = "[red]x[/red]"
    console = Console(width=80, record=True, file=StringIO())
    console.print(as_rich_table(run))
    text = console.export_text()
    assert max(len(line) for line in text.splitlines()) <= 80
    for shown in ("[red]x[/red]", "72.6%", "[69.0, 76.2]", "91.1%", "9.3%", "85.5%", "95% kept"):
        assert shown in text


def test_cost_is_summed_over_stages_and_compared_with_undefended(run: dict[str, Any]) -> None:
    rows = {row[0].main: row for row in cost_rows(load_results(run))}
    assert [cell.main for cell in rows["undefended"]] == ["undefended", "12.1 s", "15.3 s", "–", "27.4 s", "1.00×"]
    assert [cell.main for cell in rows["panacea"]][1:] == ["12.1 s", "44.9 s", "–", "57.0 s", "2.08×"]
    assert rows["panacea"][2].note == "1,500 fwd · 1,500 bwd · 204 MiB"
    assert rows["random"][3].note == ""


def test_helpfulness_is_shown_with_what_is_kept_of_it(run: dict[str, Any]) -> None:
    assert "| 85.5% [80.6, 90.4], 95% kept |" in as_markdown(run)
    run["variants"][0]["helpfulness"] |= {"kept": None, "kept_low": None, "kept_high": None}
    assert "| 85.5% [80.6, 90.4] |" in as_markdown(run).splitlines()[2]


def test_a_harmful_score_says_how_much_of_it_is_broken_text(run: dict[str, Any]) -> None:
    assert "broken text" not in as_markdown(run)
    run["variants"][0] |= {"broken_harmful": 0.2}
    run["variants"][1] |= {"broken_harmful": 0.05}
    assert [line.count("20.0% broken text") for line in as_markdown(run).splitlines() if "broken" in line] == [1]


def test_outcomes_have_a_row_per_variant_and_set(run: dict[str, Any]) -> None:
    run["variants"][1] |= {"broken_harmful": 0.007}
    rows = outcome_rows(load_results(run))
    assert len(rows) == 7 * 3
    assert [cell.main for cell in rows[3]] == [
        "undefended",
        "harmful prompts",
        "26.1%",
        "0.0%",
        "0.0%",
        "1.3%",
        "72.6%",
    ]
    assert [cell.note for cell in rows[3]] == ["", "(600 answers)", "", "", "", "0.7% in HS", ""]
    assert rows[4][1].main == "harmless look-alikes"
    assert rows[4][5].note == "", "what the judge says of harmful prompts does not stand beside other sets"
