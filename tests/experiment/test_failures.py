"""A defense that cannot act stops its own variant, with its reason in results, report and exit text."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

import mithridate as mi
from mithridate.defenses.panacea import Panacea
from mithridate.errors import DataError, DefenseError
from mithridate.experiment.jobs import StageNode
from mithridate.experiment.monitor import Monitor
from mithridate.report import as_markdown

# SaLoRA asks for an adapter that starts at zero, which `continue` does not give after alignment.
CANNOT_ACT = {"name": "stuck", "finetuning": "salora", "posttuning": {"method": "panacea", "radius": 0.5}}


class Told(Monitor):
    """Keeps what the engine tells."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.stuck: list[tuple[str, str]] = []

    def finished(self, node: StageNode) -> None:
        self.ended.append(node.stage)

    def failed(self, node: StageNode, reason: str) -> None:
        self.stuck.append((node.stage, reason))


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_other_variants_go_on(tree: dict[str, Any], tmp_path: Path, jobs: int) -> None:
    told = Told()
    tree |= {"adapter": "continue", "variants": [{"name": "undefended"}, CANNOT_ACT]}
    results = mi.run(tree, tmp_path, jobs=jobs, monitor=told)
    assert [variant.name for variant in results.variants] == ["undefended"]
    assert len(results.failures) == 1
    failure = results.failures[0]
    assert (failure.variant, failure.stage, failure.method, failure.seed) == ("stuck", "finetuning", "salora", 0)
    assert failure.at_base
    assert "fresh adapter" in failure.reason
    assert [stage for stage, _ in told.stuck] == ["finetuning", "posttuning", "evaluation"]
    assert sorted(told.ended) == ["alignment", "evaluation", "finetuning"]
    assert json.loads((tmp_path / "results.json").read_text())["failures"][0]["reason"] == failure.reason
    assert "stuck (salora cannot act at fine-tuning: SaLoRA's start needs" in as_markdown(results)
    assert "salora cannot act at fine-tuning" in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "variants/stuck").exists()


def test_a_model_released_earlier_is_not_taken_for_one_of_a_variant_that_cannot_act(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = {"name": "fixed", "posttuning": {"method": "panacea", "radius": 0.5}}
    tree |= {"save": "adapter", "variants": [{"name": "undefended"}, fixed]}
    mi.run(tree, tmp_path)
    assert (tmp_path / "variants/fixed/seed-0/manifest.json").is_file()

    def never(self: Panacea, *args: Any, **kwargs: Any) -> Any:
        raise DefenseError("no dose fits")

    monkeypatch.setattr(Panacea, "repair", never)
    fixed["posttuning"] = {"method": "panacea", "radius": 0.7}
    results = mi.run(tree, tmp_path)
    assert [failure.variant for failure in results.failures] == ["fixed"]
    assert not (tmp_path / "variants/fixed/seed-0").exists()
    assert (tmp_path / "variants/undefended/seed-0/manifest.json").is_file()


def test_a_reference_that_cannot_act_leaves_the_others_uncompared(tree: dict[str, Any], tmp_path: Path) -> None:
    tree |= {"adapter": "continue", "variants": [{"name": "undefended"}, CANNOT_ACT], "reference": "stuck"}
    results = mi.run(tree, tmp_path)
    assert results.variants[0].versus_reference is None
    assert results.escapes == []


def test_a_run_without_any_figure_is_an_error(tree: dict[str, Any], tmp_path: Path) -> None:
    tree |= {"adapter": "continue", "variants": [CANNOT_ACT], "reference": None}
    with pytest.raises(DefenseError, match="no variant could be measured: stuck: SaLoRA's start needs"):
        mi.run(tree, tmp_path)
    assert not (tmp_path / "results.json").exists()


def fail_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call of Panacea's finds that it cannot act, the first being number 1."""
    repair, calls = Panacea.repair, itertools.count(1)

    def sometimes(self: Panacea, *args: Any, **kwargs: Any) -> Any:
        if next(calls) == number:
            raise DefenseError("no dose fits")
        return repair(self, *args, **kwargs)

    monkeypatch.setattr(Panacea, "repair", sometimes)


def test_seeds_that_could_not_be_measured_are_counted(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At two of three seeds the dose exists: the figures come from these, and are compared with the same seeds."""
    fail_at(2, monkeypatch)
    tree |= {"seeds": [3, 4, 5], "save": "none"}
    tree["variants"] = [{"name": "undefended"}, {"name": "panacea", "posttuning": {"method": "panacea", "radius": 0.5}}]
    results = mi.run(tree, tmp_path)
    panacea = results.variants[1]
    assert panacea.seeds == [3, 5]
    assert len(panacea.harmful_score.seeds) == 2
    assert panacea.harmful_score.n == 12
    assert [failure.seed for failure in results.failures] == [4]
    versus = panacea.versus_reference
    assert versus is not None
    assert versus.low is not None
    assert versus.high is not None
    assert versus.low <= versus.difference <= versus.high
    assert "2 of 3" in as_markdown(results)
    assert "at the recipe's setting, seed 4" in " ".join(_cautions(results))
    # The same command tries what failed again, and only that.
    again = mi.run(tree, tmp_path)
    assert again.failures == []
    assert again.effort is not None
    assert again.effort.made == 2


def test_answers_are_set_side_by_side_at_a_seed_that_both_have(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(1, monkeypatch)
    tree |= {"seeds": [3, 4], "save": "none"}
    tree["variants"] = [{"name": "undefended"}, {"name": "panacea", "posttuning": {"method": "panacea", "radius": 0.5}}]
    results = mi.run(tree, tmp_path)
    assert results.variants[1].seeds == [4]
    leaves = json.loads((tmp_path / "answers.json").read_text())["leaves"]
    said = {(leaf["variant"], leaf["seed"]): [a["answer"] for a in leaf["sets"]["harmful"]] for leaf in leaves}
    harmful = {(leaf["variant"], leaf["seed"]): [a["harmful"] for a in leaf["sets"]["harmful"]] for leaf in leaves}
    assert results.stopped is not None
    assert results.stayed is not None
    assert results.stopped + results.stayed == sum(harmful["undefended", 4])
    for escape in results.escapes:
        assert escape.before.answer in said["undefended", 4]
        assert escape.after.answer in said["panacea", 4]


def _cautions(results: Any) -> list[str]:
    from mithridate.report.cautions import cautions

    return cautions(results)


def test_along_an_axis_the_other_cells_go_on(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(2, monkeypatch)
    tree |= {"axes": {"epochs": [1, 2]}, "save": "none"}
    tree["variants"] = [{"name": "undefended"}, {"name": "panacea", "posttuning": {"method": "panacea", "radius": 0.5}}]
    results = mi.run(tree, tmp_path)
    assert [(failure.at_base, failure.setting.epochs) for failure in results.failures] == [(False, 2)]
    assert len(results.cells) == 3
    assert "cannot act" in (tmp_path / "tables/epochs.md").read_text()
    assert results.claims


def test_a_fault_of_the_data_still_stops_the_run(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["evaluation"]["harmful"] = tree["streams"]["user"]["harmful"]
    tree |= {"adapter": "continue", "variants": [CANNOT_ACT, {"name": "undefended"}]}
    with pytest.raises(DataError):
        mi.run(tree, tmp_path)
