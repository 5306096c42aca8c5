"""The provider's page: everything that decided is on it, and a stranger's names can do no harm there."""

from pathlib import Path
from typing import Any

from mithridate.provider.decision_page import REPORT, decision_page
from mithridate.provider.tuning import tune


def test_the_page_tells_every_check_and_equal_decisions_give_equal_bytes(
    policy: dict[str, Any], world: Path, tmp_path: Path
) -> None:
    policy["release"]["harmful_score"] = 0
    made = tune(str(world / "model"), str(world / "user.jsonl"), policy, out=tmp_path / "out")
    page = (tmp_path / "out" / REPORT).read_text()
    assert page == decision_page(made)
    assert "user.jsonl: refused at release" in page
    for rung in made.rungs:
        assert f"Rung: {rung.name}" in page
        assert all(check.figure in page for check in rung.checks)
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_names_of_strangers_are_shown_as_text(policy: dict[str, Any], world: Path, tmp_path: Path) -> None:
    name = tmp_path / '<img src=x onerror="alert(1)">\u202e.jsonl'
    name.write_bytes((world / "user.jsonl").read_bytes())
    made = tune(str(world / "model"), str(name), policy, out=tmp_path / "out")
    page = decision_page(made)
    assert "<img" not in page
    assert "\u202e" not in page
