"""The tables of README.md are those of the stored results."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "experiments"


@pytest.fixture(scope="module")
def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("table", FOLDER / "table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_shows_the_stored_results(table: ModuleType) -> None:
    text = table.README.read_text(encoding="utf-8")
    assert table.written(text) == text


@pytest.mark.parametrize("market", ["BTC", "ETH", "BNB"])
def test_the_stored_spread_falls_with_the_strength(market: str) -> None:
    seeds = json.loads((FOLDER / f"full-{market}.json").read_text())["seeds"]
    names = ["no term", *(f"proximity {strength}" for strength in ("0.03", "0.1", "0.3", "1", "3"))]
    spreads = [seeds[name]["weight_spread"]["mean"] for name in names]
    assert spreads == sorted(spreads, reverse=True)
    assert all(len(seeds[name]["sharpe"]["values"]) >= 5 for name in names)


@pytest.mark.parametrize("market", ["BTC", "ETH", "BNB"])
@pytest.mark.parametrize("design", ["full", "stopped"])
def test_no_stored_network_has_an_interval_above_zero(design: str, market: str) -> None:
    """The page says so; results that change this must change the page."""
    found = json.loads((FOLDER / f"{design}-{market}.json").read_text())
    assert all(found["strategies"][name]["sharpe"]["low"] < 0 for name in found["seeds"])


@pytest.mark.parametrize("market", ["BTC", "ETH", "BNB"])
def test_the_strong_term_trades_and_loses_less_in_every_situation(market: str) -> None:
    regimes = json.loads((FOLDER / f"full-{market}.json").read_text())["regimes"]
    assert len(regimes) == 7
    for regime in regimes:
        seeds = regime["seeds"]["proximity 3"]
        assert seeds["turnover_per_year"]["change"] < 0
        assert seeds["max_drawdown"]["change"] < 0


def test_the_stored_choices_are_best_and_were_tested_once(table: ModuleType) -> None:
    looks = [json.loads(line) for line in (FOLDER / "choice-looks.jsonl").read_text().splitlines()]
    markets = table.chosen_markets()
    assert markets == ("BTC", "ETH", "BNB")
    for market, found in table.load("choice", markets).items():
        sharpes = [trial["sharpe"] for trial in found["choice"]["trials"]]
        assert len(sharpes) == 12
        assert found["choice"]["chosen"] == sharpes.index(max(sharpes))
        assert found["final"]["look"] == 1
        assert found["tested"]["last"] < "2023" <= found["final"]["tested"]["first"]
        assert sum(look["pair"] == found["pair"] for look in looks) == 1, market
        own = next(one for one in found["final"]["strategies"] if one["key"] == "network")
        # The page says that no difference to half/half leaves zero.
        assert own["versus_half"]["low"] < 0 < own["versus_half"]["high"]
