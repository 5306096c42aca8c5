"""The tables of docs/cost.md are those of the files beside it, and the benchmark of generation compares answers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cost_tables, generation

FOLDER, PAGE = Path("docs/results"), Path("docs/cost.md")


def test_the_page_holds_what_was_measured(tmp_path: Path) -> None:
    page = tmp_path / "cost.md"
    shutil.copy(PAGE, page)
    cost_tables.main([str(FOLDER), str(page)])
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8"), "run benchmarks.cost_tables"


def test_every_method_is_told_of() -> None:
    files = ("step_lora", "step_recovery", "repair_lora")
    step, later, repair = (json.loads((FOLDER / f"cost_{name}.json").read_text()) for name in files)
    assert cost_tables.missing(step, later, repair) == []
    told = {one["method"] for one in step["figures"]}
    assert cost_tables.LIMITS.keys() <= told
    assert not any(cost_tables.is_repair(name) for name in told - {"trl"})


def test_a_limit_that_is_exceeded_is_said() -> None:
    spread = {"median": 1.3, "min": 1.2, "max": 1.4}
    assert cost_tables.verdict(spread, 1.25) == "1.25, **exceeded**"
    assert cost_tables.verdict(spread, 1.3) == "1.30, held"
    assert cost_tables.verdict(spread, None) == "–"


def test_batched_answers_are_those_of_the_loop(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"width": 32, "layers": 1, "vocabulary": 64, "sequence": 16, "repeats": 1, "prompts": 6, "tokens": 4}
    generation.main(["--device", "cpu", *(word for name, size in sizes.items() for word in (f"--{name}", str(size)))])
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    (figure,) = content["figures"]
    assert figure["same_answers"] == figure["answers"] == 6
    assert figure["times_as_fast"]["median"] > 0
