"""``mithridate compare`` as a user meets it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.compare.conftest import TINY, Ran

from mithridate.cli.main import main


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mithridate", *arguments])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['mithridate', 'compare', '--help']\n"
        "from mithridate.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'datasets', 'matplotlib'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "claims" in shown


def test_it_prints_the_table_the_verdicts_and_where_the_page_lies(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ran: Ran, tmp_path: Path
) -> None:
    (tmp_path / "store").symlink_to(ran.folder / "store")
    assert called(monkeypatch, "compare", str(TINY), "--out", str(tmp_path)) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"page: {tmp_path / 'comparison.html'}" in shown
    assert "store: " in shown
    for claim in ran.comparison.claims:
        assert f"{claim.name}: {claim.verdict}. {claim.sentence}" in shown
    command = json.loads((tmp_path / "comparison.json").read_text())["run"]["command"]
    assert command == f"mithridate compare {TINY} --out {tmp_path}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.yaml"], "none.yaml does not exist"),
        ([str(TINY), "--set", "axes.epoch=[1]"], "unknown key 'axes.epoch'; did you mean 'epochs'?"),
        ([str(TINY), "--set", "recipe.finetuning.epochs=-1"], "recipe.finetuning.epochs"),
        ([str(TINY), "--set", "seeds"], "must be a.b=value"),
    ],
)
def test_errors_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert called(monkeypatch, "compare", *arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert not list(tmp_path.iterdir())
