"""Shared pieces: tiny settings, candle files on disk, the real candles where they are."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from pairfolio.cli import main
from pairfolio.config import Settings, override
from pairfolio.data.candles import Candles
from pairfolio.data.pair import Pair, join
from pairfolio.data.synthetic import synthetic_pair
from pairfolio.learning.model import fit
from pairfolio.learning.walkforward import fold_block
from pairfolio.modelfile import SavedModel, load_model, save_model

# By default the shared data lie beside the checkout, wherever the tests are started.
os.environ.setdefault("MITHRIDATE_DATA", str(Path(__file__).parents[3] / "shared"))

Command = Callable[..., tuple[int, str, str]]

TINY = {
    "features.horizons": (1, 2),
    "features.volume_bars": 4,
    "network.kind": "mlp",
    "network.hidden": 4,
    "network.window": 4,
    "training.epochs": 2,
    "training.block": 20,
    "training.learning_rate": 0.05,
    "walk.train_days": 10,
    "walk.validation_days": 3,
    "walk.test_days": 5,
    "rolling.lookback_days": 5,
    "rolling.refit_days": 3,
    "uncertainty.samples": 50,
    "uncertainty.shifts": 20,
    "seeds": (0, 1),
}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def tiny() -> Settings:
    """Settings that train in milliseconds."""
    return override(Settings(), dict(TINY))


@pytest.fixture
def small_pair() -> Pair:
    """30 days of 4h bars."""
    return synthetic_pair(180, seed=3)


@pytest.fixture
def candle_rows() -> list[str]:
    """Six good rows with a header."""
    times = pd.date_range("2022-01-01", periods=6, freq="h", tz="UTC").strftime("%Y-%m-%dT%H:%M:%SZ")
    closes = [100, 101, 100, 102, 103, 101]
    rows = [
        f"{time},{close - 0.5},{close + 1},{close - 1},{close},{10 + i}"
        for i, (time, close) in enumerate(zip(times, closes, strict=True))
    ]
    return ["open_time,open,high,low,close,volume", *rows]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write lines to a file of the test's folder."""

    def put(lines: list[str], name: str = "A.csv") -> Path:
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return put


@pytest.fixture(scope="session")
def binance() -> Path:
    """The folder of real candles, or a skip that says why."""
    folder = Path(os.environ["MITHRIDATE_DATA"]) / "data" / "binance"
    if not (folder / "BTCUPUSDT_1h.csv.gz").is_file():
        pytest.skip(f"no real candles in {folder}; set MITHRIDATE_DATA to the folder that holds data/binance")
    return folder


@pytest.fixture
def cut() -> Callable[..., Pair]:
    """Bars of a pair from one number to another, as if read from a shorter file."""

    def part(pair: Pair, start: int, stop: int | None = None, names: tuple[str, ...] = ()) -> Pair:
        named = names or (*pair.names, "SPOT")
        return join(
            [
                Candles(name, frame.iloc[start:stop], pair.interval)
                for name, frame in zip(named, pair.frames, strict=False)
            ]
        )

    return part


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., SavedModel]:
    """Train one fold of a pair, save it, and read it back."""

    def put(pair: Pair, settings: Settings, number: int = 0, name: str = "model") -> SavedModel:
        block = fold_block(pair, settings, number)
        model = fit(pair, block, settings, number)
        save_model(tmp_path / name, model, pair, block, number, {"pairfolio": "test"})
        return load_model(tmp_path / name)

    return put


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run the command in the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pairfolio", *words])
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return run


@pytest.fixture
def config(tmp_path: Path, tiny: Settings) -> str:
    path = tmp_path / "tiny.json"
    path.write_text(tiny.model_dump_json())
    return str(path)


@pytest.fixture
def files(tmp_path: Path, small_pair: Pair) -> list[str]:
    """The small pair as two candle files."""
    paths = []
    for name, frame in zip(("A.csv", "B.csv"), small_pair.frames[:2], strict=True):
        table = frame.copy()
        table.index = pd.Index(table.index.strftime("%Y-%m-%dT%H:%M:%SZ"), name="open_time")
        table.to_csv(tmp_path / name)
        paths.append(str(tmp_path / name))
    return paths
