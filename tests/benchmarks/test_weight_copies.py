"""Copies of the weights: the benchmark says what it saw, and the page what the benchmark said."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import weight_copies
from mithridate.defenses.registry import methods
from mithridate.training.defense import Defense

ROOT = Path(__file__).parents[2]
FIGURES = [
    figure
    # The second has a safe row in every step, which the first had not; the third has what came later.
    for name in ("weight_copies", "weight_copies_safety_mixing", "weight_copies_recovery")
    for figure in json.loads((ROOT / f"docs/results/{name}.json").read_text(encoding="utf-8"))["figures"]
]
MEASURED = {figure["method"]: figure for figure in FIGURES if "refused" not in figure}


def test_every_training_method_was_measured_or_refused():
    training = {name for name, info in methods().items() if issubclass(info.cls, Defense)}
    assert {figure["method"] for figure in FIGURES} == training
    assert training - set(MEASURED) == {"salora"}


@pytest.mark.parametrize("name", MEASURED)
def test_what_was_measured_is_what_is_registered(name):
    assert MEASURED[name]["copies"] == pytest.approx(1 + methods()[name].vectors, abs=0.25)


def test_the_page_shows_what_was_measured():
    page = (ROOT / "docs/memory.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (?:\d+|–) \| ([\d.]+) \| ([^|]+) \|", page, re.M)
    assert sorted(rows) == sorted((name, str(figure["copies"]), figure["at"]) for name, figure in MEASURED.items())


@pytest.mark.slow
def test_a_small_run_prints_its_figures(capsys):
    options = ["--device", "cpu", "--width", "64", "--layers", "4", "--accumulation", "2", "--every", "2"]
    weight_copies.main([*options, "--methods", "sft", "booster", "salora"])
    content = json.loads(capsys.readouterr().out)
    plain, booster, refused = content["figures"]
    assert content["benchmark"] == "weight_copies"
    assert plain["copies"] == pytest.approx(1, abs=0.01)
    assert booster["copies"] == pytest.approx(3, abs=0.3)
    assert booster["at"].startswith(("gradient", "after gradient"))
    assert "LoRA" in refused["refused"]
