"""The command as a user types it: files written, exit status, sentences on standard error."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pairfolio.config import Settings, override

Command = Callable[..., tuple[int, str, str]]
FILES = {"config.json", "results.json", "report.html", "weights.csv", "equity.csv"}


def test_backtest_of_two_files(command: Command, config: str, files: list[str], tmp_path: Path) -> None:
    status, out, _ = command("backtest", *files, "--config", config, "--out", "run")
    assert status == 0
    assert "half/half each bar" in out
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["pair"] == ["A", "B"]
    with (tmp_path / "run" / "weights.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == results["tested"]["bars"]
    assert all(0 < float(row["network"]) < 1 for row in rows)


def written(folder: Path) -> dict[str, bytes]:
    """The bytes of a run's files."""
    return {name: (folder / name).read_bytes() for name in FILES}


def test_equal_runs_give_equal_bytes(command: Command, config: str, files: list[str], tmp_path: Path) -> None:
    for out in ("one", "two"):
        assert command("backtest", *files, "--config", config, "--out", out)[0] == 0
    assert written(tmp_path / "one") == written(tmp_path / "two")
    other = ("backtest", *files, "--config", config, "--out", "three", "--seeds", "1")
    assert command(*other)[0] == 0
    assert (tmp_path / "one" / "weights.csv").read_bytes() != (
        tmp_path / "three" / "weights.csv"
    ).read_bytes()


def test_a_run_comes_back_from_its_config(
    command: Command, config: str, files: list[str], tmp_path: Path
) -> None:
    options = ("--lambda", "2", "--fee-bps", "5", "--network", "tcn")
    assert command("backtest", *files, "--config", config, *options, "--out", "one")[0] == 0
    saved = json.loads((tmp_path / "one" / "config.json").read_text())
    assert (saved["loss"]["strength"], saved["loss"]["fee"], saved["network"]["kind"]) == (2.0, 0.0005, "tcn")
    assert command("backtest", *files, "--config", "one/config.json", "--out", "two")[0] == 0
    assert (tmp_path / "one" / "results.json").read_bytes() == (
        tmp_path / "two" / "results.json"
    ).read_bytes()


def test_the_synthetic_pair_is_the_default(command: Command, tiny: Settings, tmp_path: Path) -> None:
    settings = override(tiny, {"rolling.refit_days": 60.0, "walk.test_days": 200.0, "seeds": (0,)})
    (tmp_path / "config.json").write_text(settings.model_dump_json())
    status, out, _ = command("backtest", "--config", "config.json", "--json")
    assert status == 0
    results = json.loads(out)
    assert results["pair"] == ["SYNTHETIC-UP", "SYNTHETIC-DOWN"]
    assert [regime["name"] for regime in results["regimes"]] == ["calm", "rise", "fall", "calm again"]
    assert {path.name for path in (tmp_path / "pairfolio-run").iterdir()} == FILES


def test_check_reports_gaps(command: Command, files: list[str]) -> None:
    lines = Path(files[0]).read_text().splitlines()
    Path(files[0]).write_text("\n".join([*lines[:50], *lines[53:]]) + "\n")
    status, out, _ = command("check", *files)
    assert status == 0
    assert "A.csv: 3 bars missing from" in out
    status, out, _ = command("check", *files, "--json")
    assert json.loads(out)["gaps"][0]["missing"] == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("check", "A.csv"), "1 file given; give two"),
        (("check", "A.csv", "none.csv"), "there is no such file"),
        (("check", "--pair", "DOGE"), "--pair DOGE: choose BTC, ETH, BNB"),
        (("check", "A.csv", "B.csv", "--pair", "BTC"), "give either it or two files"),
        (("check", "--interval", "8h"), "the synthetic pair takes none"),
        (("check", "A.csv", "B.csv", "--interval", "6x"), "interval '6x' is not understood"),
        (("check", "A.csv", "B.csv", "--interval", "1h"), "choose a multiple"),
        (("check", "A.csv", "B.csv", "--start", "soon"), "'soon' is no day or time"),
        (("check", "A.csv", "B.csv", "--split", "B.csv=3"), "write FILE@TIME=FACTOR"),
        (("backtest", "A.csv", "B.csv"), "180 common bars are too few"),
        (("backtest", "A.csv", "B.csv", "--fee-bps", "-1"), "loss.fee"),
        (("backtest", "A.csv", "B.csv", "--network", "oracle"), "network.kind"),
        (("backtest", "A.csv", "B.csv", "--seeds", "0"), "seeds"),
        (("backtest", "A.csv", "B.csv", "--config", "none.json"), "none.json"),
        (("backtest", "A.csv", "B.csv", "--such"), "No such option"),
    ],
)
def test_wrong_use_ends_with_status_2(
    command: Command, files: list[str], words: tuple[str, ...], message: str
) -> None:
    status, _, err = command(*words)
    assert status == 2
    assert message in " ".join(err.split())
    assert "Traceback" not in err


def test_a_bad_row_ends_with_status_2_and_its_number(command: Command, files: list[str]) -> None:
    lines = Path(files[1]).read_text().splitlines()
    cells = lines[40].split(",")
    lines[40] = ",".join([*cells[:4], "0", *cells[5:]])
    Path(files[1]).write_text("\n".join(lines) + "\n")
    status, _, err = command("backtest", *files)
    assert status == 2
    assert err == "pairfolio: B.csv, row 41: the close is not above zero; mend or remove the row\n"


def test_a_folder_that_cannot_be_written_is_named(command: Command, config: str, files: list[str]) -> None:
    status, _, err = command("backtest", *files, "--config", config, "--out", "A.csv/run")
    assert status == 1
    assert "A.csv" in err


def test_without_shared_data_the_variable_is_named(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MITHRIDATE_DATA", "nowhere")
    status, _, err = command("check", "--pair", "BTC")
    assert status == 2
    assert "set MITHRIDATE_DATA" in err


@pytest.mark.real_data
def test_a_real_pair_by_name(command: Command, binance: Path) -> None:
    status, _, err = command("check", "--pair", "bnb")
    assert status == 2
    assert "BNBDOWNUSDT_4h.csv.gz, row" in err
    status, out, _ = command("check", "--pair", "bnb", "--adjust-splits", "--json")
    assert status == 0
    assert json.loads(out)["correlation"] == pytest.approx(-0.920, abs=5e-4)


def test_version(command: Command) -> None:
    assert command("--version")[1].startswith("pairfolio 0.")
