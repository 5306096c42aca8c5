"""train, apply and compare as a user types them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pairfolio.config import Settings, override

Command = Callable[..., tuple[int, str, str]]
END = "2030-01-21"


@pytest.fixture
def model(command: Command, config: str, files: list[str]) -> str:
    """Trained on the files before `END`."""
    assert command("train", *files, "--config", config, "--end", END, "--out", "m")[0] == 0
    return "m"


def rows(path: Path) -> list[str]:
    return path.read_text().splitlines()


def rewrite(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n")


def test_train_once_apply_later(command: Command, model: str, files: list[str], tmp_path: Path) -> None:
    status, out, err = command("apply", model, *files, "--from", END)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "open_time,weight,held,turnover,model"
    assert len(lines) == 1 + 180 - 120
    assert lines[1].startswith("2030-01-21T00:00:00Z,0.")
    assert command("apply", model, *files, "--from", END)[1] == out
    assert command("apply", model, *files, "--from", END, "--out", "w/w.csv")[0] == 0
    assert (tmp_path / "w" / "w.csv").read_text() == out
    assert [path.name for path in (tmp_path / "w").iterdir()] == ["w.csv"]


def test_two_calls_on_growing_files(command: Command, model: str, files: list[str], tmp_path: Path) -> None:
    whole = command("apply", model, *files, "--from", END)[1]
    full = [rows(Path(path)) for path in files]
    for path, lines in zip(files, full, strict=True):
        rewrite(Path(path), lines[:151])
    assert command("apply", model, *files, "--from", END, "--out", "one.csv")[0] == 0
    for path, lines in zip(files, full, strict=True):
        rewrite(Path(path), [lines[0], *lines[130:]])
    status, second, err = command("apply", model, *files, "--after", "one.csv")
    assert (status, "by file name" in err) == (0, True)
    first = (tmp_path / "one.csv").read_text()
    assert first + second.split("\n", 1)[1] == whole


def test_the_model_of_a_fold_gives_the_weights_of_the_backtest(
    command: Command, config: str, files: list[str], tmp_path: Path
) -> None:
    assert command("backtest", *files, "--config", config, "--out", "run")[0] == 0
    traded = dict(line.split(",")[:2] for line in rows(tmp_path / "run" / "weights.csv")[1:])
    assert command("train", *files, "--config", config, "--fold", "1", "--out", "m")[0] == 0
    folds = json.loads((tmp_path / "run" / "results.json").read_text())["folds"]
    first = next(record["first_test"] for record in folds if record["fold"] == 1)
    later = [record["first_test"] for record in folds if record["fold"] == 2]
    out = command("apply", "m", *files, "--from", first)[1]
    own = dict(line.split(",")[:2] for line in out.splitlines()[1:])
    shared = [time for time in own if time in traded and (not later or time < later[0])]
    assert len(shared) == 30
    assert all(own[time] == traded[time] for time in shared)


def test_equal_trainings_give_equal_bytes(
    command: Command, model: str, config: str, files: list[str], tmp_path: Path
) -> None:
    again = ("train", *files, "--config", config, "--end", END)
    assert command(*again, "--out", "again")[0] == 0
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "m" / name).read_bytes()
    status, _, err = command(*again, "--out", "again")
    assert (status, "is there already" in err) == (2, True)
    record = json.loads(command(*again, "--out", "third", "--json")[1])
    assert {len(source["sha256"]) for source in record["data"]} == {64}


SPOILT: dict[str, tuple[Callable[[list[str]], list[str]], int, str]] = {
    "shuffled": (lambda lines: [lines[0], *lines[:0:-1]], 2, "is earlier than the row before"),
    "a row twice": (lambda lines: [*lines[:160], lines[159], *lines[160:]], 2, "repeats the time of"),
    "gaps": (lambda lines: [*lines[:160], *lines[163:]], 0, "3 bars missing from"),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_new_files_are_checked_as_in_a_backtest(
    command: Command, model: str, files: list[str], fault: str
) -> None:
    spoil, expected, message = SPOILT[fault]
    rewrite(Path(files[0]), spoil(rows(Path(files[0]))))
    status, out, err = command("apply", model, *files, "--from", END)
    assert status == expected
    assert message in err
    assert bool(out) == (status == 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("apply", "m", "A.csv", "B.csv"), "--allow-overlap"),
        (("apply", "m", "B.csv", "A.csv", "--from", END), "another order of A and B"),
        (("apply", "m", "A.csv", "B.csv", "--interval", "8h", "--from", END), "trained on bars of 4h"),
        (("apply", "m", "A.csv", "B.csv", "--spot", "A.csv", "--from", END), "without the underlying"),
        (("apply", "m", "A.csv", "B.csv", "--from", "2031-01-01"), "to warm up"),
        (("apply", "none", "A.csv", "B.csv"), "give a folder written by pairfolio train"),
        (("apply", "m", "A.csv", "B.csv", "--after", "w.csv", "--from", END), "leave out --from"),
        (("apply", "m", "A.csv", "B.csv", "--after", "w.csv", "--out", "w.csv"), "name another --out"),
        (("compare", "m", "m", "--data", "A.csv", "--data", "B.csv"), "named twice"),
        (("compare", "m", "--data", "A.csv", "--data", "B.csv"), "--allow-overlap"),
        (("train", "A.csv", "B.csv", "--out", "other"), "180 common bars are too few"),
        (("train", "A.csv", "B.csv", "--config", "tiny.json", "--fold", "9", "--out", "x"), "folds 0 to"),
        (("backtest", "A.csv", "B.csv", "--choose", "--network", "mlp"), "leave out --network"),
        (("backtest", "A.csv", "B.csv", "--final"), "name its start with --final-start"),
    ],
)
def test_wrong_use_ends_with_status_2(
    command: Command, model: str, words: tuple[str, ...], message: str
) -> None:
    status, out, err = command(*words)
    assert (status, out) == (2, "")
    assert message in " ".join(err.split())
    assert "Traceback" not in err


def test_an_altered_model_is_refused(command: Command, model: str, files: list[str], tmp_path: Path) -> None:
    path = tmp_path / "m" / "model.json"
    path.write_text(path.read_text().replace('"fee": 0.00075', '"fee": 0.0', 1))
    status, out, err = command("apply", model, *files, "--from", END)
    assert (status, out) == (2, "")
    assert "was altered since the model was saved" in err


def test_compare_sets_models_and_rules_side_by_side(
    command: Command, model: str, config: str, files: list[str], tmp_path: Path
) -> None:
    other = ("train", *files, "--config", config, "--end", END, "--network", "tabl", "--out", "t")
    assert command(*other)[0] == 0
    data = ("--data", files[0], "--data", files[1], "--from", END)
    status, out, _ = command("compare", "m", "t", *data, "--out", "c.json")
    assert status == 0
    for word in ("model m", "model t", "half/half each bar", "equal risk, rolling", "fee 7.5 bp"):
        assert word in out
    found = json.loads((tmp_path / "c.json").read_text())
    assert [one["network"] for one in found["models"]] == ["mlp", "tabl"]
    assert found["tested"]["bars"] == 180 - 120 - 1
    assert json.loads(command("compare", "m", "t", *data, "--json")[1]) == found


def test_the_final_test_of_a_run(command: Command, tiny: Settings, files: list[str], tmp_path: Path) -> None:
    grid = {"networks": ("mlp",), "strengths": (0.0, 1.0)}
    settings = override(tiny, {"selection": grid, "seeds": (0,), "rolling.refit_days": 60.0})
    (tmp_path / "c.json").write_text(settings.model_dump_json())
    words = ("backtest", *files, "--config", "c.json", "--final-start", "2030-01-25", "--final", "--json")
    status, out, _ = command(*words)
    results = json.loads(out)
    assert status == 0
    assert len(results["choice"]["trials"]) == 2
    assert results["final"]["look"] == 1
    assert results["data"]["last"] == "2030-01-24T20:00:00Z"
    page = (tmp_path / "pairfolio-run" / "report.html").read_text()
    assert "<h2>Final test</h2>" in page
    assert "<h2>Choice</h2>" in page
    status, _, err = command(*words)
    assert (status, "--again takes it" in err) == (2, True)
    assert json.loads(command(*words, "--again")[1])["final"]["look"] == 2
    assert "look 2" in (tmp_path / "pairfolio-run" / "report.html").read_text()
    assert len(rows(tmp_path / "pairfolio-final.jsonl")) == 2
