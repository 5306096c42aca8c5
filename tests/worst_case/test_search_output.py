"""What a search shows: the command, the table, the page; and a trial that an attack fails."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mithridate.cli.main import app, main
from mithridate.errors import AttackError
from mithridate.experiment.cells import evaluation
from mithridate.experiment.stage_pool import Placement
from mithridate.worst_case import trial_stages
from mithridate.worst_case.search import SearchMonitor, _searching
from mithridate.worst_case.worst_page import cautions, sentence, worst_page
from mithridate.worst_case.writing import _rooted
from tests.worst_case.conftest import TRIALS, FinishedSearch

Printed = pytest.CaptureFixture[str]


@pytest.fixture
def recipe(search: FinishedSearch, tmp_path: Path) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(search.tree), encoding="utf-8")
    return str(path)


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mithridate", "redteam", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_the_command_prints_the_cost_the_table_and_the_page(
    search: FinishedSearch, recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    found = (recipe, "--out", str(search.folder), "--trials", str(TRIALS))
    assert called(monkeypatch, *found, "--show-cost") == 0
    assert "6 done, 0 to make" in capsys.readouterr().out
    assert called(monkeypatch, *found) == 0
    shown = " ".join(capsys.readouterr().out.split())
    worst = search.found.rows[1].worst
    assert worst is not None
    assert f"lr {worst.setting.learning_rate:.2g}, " in shown
    assert f"(trial {worst.number})" in shown or "(the recipe's own)" in shown
    assert f"page: {search.folder}/redteam.html" in shown
    assert "clean: not searched, its upload holds no row of the attacker" in shown
    assert called(monkeypatch, *found, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["rows"] == json.loads((search.folder / "redteam.json").read_text())["rows"]
    assert printed["command"] == f"mithridate redteam {' '.join(found)} --json"


@pytest.mark.parametrize("refusals", ["mine.txt", "default", "miniature:refusals", ["mine.txt", "sorry " * 99]])
def test_the_recipe_of_a_worst_case_finds_its_refusals_from_any_folder(tmp_path: Path, refusals: Any) -> None:
    """A file is named in full; what only looks like one stays: a word with a meaning, and sentences."""
    for name in ("mine.txt", "default"):
        (tmp_path / name).write_text("sorry no")
    tree = {"streams": {"refusals": refusals, "safe": {"source": "mine.txt"}}, "evaluation": {"refusals": ["default"]}}
    placed = str(tmp_path / "mine.txt")
    wanted = placed if refusals == "mine.txt" else refusals
    assert _rooted(tree, tmp_path) == {
        "streams": {"refusals": wanted, "safe": {"source": placed}},
        "evaluation": {"refusals": ["default"]},
    }


def test_every_trial_is_a_line(
    search: FinishedSearch, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    folder = search.copied_stages(tmp_path / "out")
    assert called(monkeypatch, recipe, "--out", str(folder), "--trials", "1", "--json") == 0
    assert "panacea · trial 1 of 1 · HS " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "redteam.wider=false"), "mithridate: redteam: learning_rate goes beyond TamperBench's range"),
        (("--trials", "0"), "--trials"),
        (("--set", "redteam.rang=[8]"), "unknown key 'redteam.rang'; did you mean 'rank'"),
    ],
)
def test_wrong_usage_is_one_sentence(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed, arguments: Any, message: str
) -> None:
    assert called(monkeypatch, recipe, "--out", str(tmp_path / "out"), *arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_help_names_the_options() -> None:
    shown = CliRunner().invoke(app, ["redteam", "--help"]).output
    for option in ("--trials", "--show-cost", "--jobs", "--json", "--out", "--set"):
        assert option in shown


def test_the_page_shows_foreign_text_as_text(search: FinishedSearch) -> None:
    found = search.found.model_copy(deep=True)
    found.name = "<script>alert(1)</script>\u202e"
    found.rows[0].trials[1].cannot_act = "<b>"
    page = worst_page(found)
    assert "<script>" not in page
    assert "\u202e" not in page
    assert "<b>&lt;b&gt;" not in page
    assert worst_page(found) == page


def test_a_reader_is_warned(search: FinishedSearch) -> None:
    found = search.found.model_copy(deep=True)
    said = " ".join(cautions(found))
    assert "3 trials are fewer than the 40 of TamperBench" in said
    assert "One seed" in said
    assert "beyond TamperBench's" in said
    worst = found.rows[1].worst
    assert worst is not None
    worst.broken_harmful = worst.harmful_score.value = 0.5
    assert "Most of what is called harmful of panacea is broken text." in cautions(found)
    found.rows[1].worst = None
    assert "panacea: no worst case, which is no proof of safety." in cautions(found)
    assert sentence(found).startswith("No defended row has a worst case")


def test_an_attack_that_cannot_act_costs_its_own_trial_only(
    search: FinishedSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trial_stages.Scheduler.run

    def failing(self: Any) -> None:
        if any(node.job.release_attacks for node in self._plan.nodes.values() if node.stage == "evaluation"):
            raise AttackError("the attack 'prefilled' cannot act")
        real(self)

    with _searching(search.tree, search.folder, TRIALS, [], Placement(), SearchMonitor()) as opened:
        study = opened.studies["undefended"]
        settings = [study.drawn(trial) for trial in study.finished]
        assert {setting.release is None for setting in settings} == {True, False}
        planned = [opened.stages.planned(_recipe(opened, setting)) for setting in settings]
        monkeypatch.setattr(trial_stages.Scheduler, "run", failing)
        reasons = opened.stages.run(planned)
    assert [why is None for why in reasons] == [setting.release is None for setting in settings]


def test_accuracy_under_an_attack_after_release_is_measured(search: FinishedSearch) -> None:
    with _searching(search.tree, search.folder, TRIALS, [], Placement(), SearchMonitor()) as opened:
        study, checked = opened.studies["undefended"], 0
        for trial in study.finished:
            setting = study.drawn(trial)
            record = evaluation(opened.stages.store, opened.stages.planned(_recipe(opened, setting)).chains[0])
            assert list(record.release) == ([] if setting.release is None else [setting.release.label])
            for found in record.release.values():
                assert len(found.correct) == len(record.correct) == 8
                checked += 1
        assert checked


def _recipe(opened: Any, setting: Any) -> Any:
    from mithridate.worst_case.trial_recipe import trial_recipe

    return trial_recipe(opened.recipe, opened.rows.control, setting)
