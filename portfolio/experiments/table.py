"""Write the tables of README.md from the stored results.

python experiments/table.py             rewrites the part of README.md between its two marks
"""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
README = FOLDER.parent / "README.md"
MARKS = "<!-- tables: begin -->\n", "<!-- tables: end -->\n"
MARKETS = ("BTC", "ETH", "BNB")
ORDER = (
    "no term",
    "proximity 0.03",
    "proximity 0.1",
    "proximity 0.3",
    "proximity 1",
    "proximity 3",
    "bias 3",
)
RULES = {
    "half_half": "half/half each bar",
    "static_minimum_variance": "minimum variance, static",
    "rolling_minimum_variance": "minimum variance, rolling",
    "rolling_equal_risk": "equal risk, rolling",
    "bought_once": "half/half bought once",
    "hold_a": "UP held",
    "hold_b": "DOWN held",
    "spot": "spot held",
}
FIGURES = ("spread of w", "turnover a year", "max drawdown", "net Sharpe")
Found = dict[str, dict[str, Any]]


def load(design: str, markets: tuple[str, ...] = MARKETS) -> Found:
    """The stored results of a design by market."""
    return {market: json.loads((FOLDER / f"{design}-{market}.json").read_text()) for market in markets}


def tables() -> str:
    """All tables as Markdown."""
    full, stopped = load("full"), load("stopped")
    parts = [
        "**All epochs trained (MLP), each seed alone: mean ± standard error over 5 seeds.**",
        _effect(full),
        "**The package as it comes (LSTM, epoch chosen on validation), each seed alone: same figures.**",
        _effect(stopped),
        "**1h bars, all epochs trained (MLP), each seed alone: same figures.**",
        _effect(load("hourly", ("BTC",))),
        "**1h bars, network and λ chosen before 2023: net Sharpe a year of each trial; the best is kept.**",
        _trials(load("choice", chosen_markets())),
        "**What was kept, where it was chosen and on the final test: Sharpe with its 95 % interval.**",
        _final(load("choice", chosen_markets())),
        "**Mean weight of the 5 seeds, and the rules on the same bars: Sharpe with its 95 % interval.**",
        _sharpe(full, stopped),
        "**Sharpe against half/half each bar, the order of the weights (p), and the deflated Sharpe.**",
        _honest(full, stopped),
        "**All epochs trained, mean weight of the 5 seeds, filled later: Sharpe with its 95 % interval.**",
        _fills(),
        "**In each market situation, all epochs trained: mean ± standard error over 5 seeds.**",
        _situations(full),
    ]
    return "\n\n".join(parts) + "\n"


def _effect(found: Found) -> str:
    head = [
        "pair",
        "term, λ",
        "spread of w",
        "turnover a year",
        "max drawdown",
        "net Sharpe",
        "change of Sharpe",
    ]
    rows = []
    for market, result in found.items():
        for name in (name for name in ORDER if name in result["seeds"]):
            seeds = result["seeds"][name]
            change = "" if name == "no term" else _pm(seeds["sharpe"], "change", "change_error")
            rows.append(
                [
                    market,
                    name,
                    _pm(seeds["weight_spread"], digits=3),
                    _pm(seeds["turnover_per_year"], digits=0),
                    _loss(seeds["max_drawdown"]),
                    _pm(seeds["sharpe"]),
                    change,
                ]
            )
    return _grid(head, rows)


def chosen_markets() -> tuple[str, ...]:
    """Markets whose choice on 1h bars has been run."""
    return tuple(market for market in MARKETS if (FOLDER / f"choice-{market}.json").is_file())


def _trials(found: Found) -> str:
    grid = next(iter(found.values()))["choice"]["trials"]
    rows = []
    for place, trial in enumerate(grid):
        cells = []
        for result in found.values():
            choice = result["choice"]
            text = f"{choice['trials'][place]['sharpe']:.2f}".replace("-", "−")
            cells.append(f"**{text}**" if choice["chosen"] == place else text)
        rows.append([trial["network"], f"{trial['strength']:g}", *cells])
    return _grid(["network", "λ", *found], rows)


def _final(found: Found) -> str:
    def row(name: str, label: str, key: str, result: dict[str, Any]) -> list[str]:
        cells = []
        for part in (result, result["final"]):
            one = next(strategy for strategy in part["strategies"] if strategy["key"] == key)
            total = f"{100 * one['metrics']['total_return']:+.0f} %".replace("-", "−")
            cells.append(f"{_interval(one['sharpe'])}; {total}")
        deflated = f"{result['choice']['deflated']:.2f}" if key == "network" else ""
        return [name, label, cells[0], deflated, cells[1]]

    rows = []
    for market, result in found.items():
        kept = result["choice"]["trials"][result["choice"]["chosen"]]
        rows.append(row(market, f"{kept['network']}, λ={kept['strength']:g}", "network", result))
        rows += [
            row(market, RULES[key], key, result) for key in ("half_half", "rolling_minimum_variance", "spot")
        ]
    trials = len(next(iter(found.values()))["choice"]["trials"])
    head = ["pair", "strategy", "before 2023", f"deflated, {trials} trials", "final test, 2023"]
    return _grid(head, rows)


def _sharpe(full: Found, stopped: Found) -> str:
    def cell(result: dict[str, Any], key: str) -> str:
        whole = result["strategies"][key]
        total = f"{100 * whole['metrics']['total_return']:+.0f} %"
        return f"{_interval(whole['sharpe'])}; {total}".replace("-", "−")

    rows = []
    for title, found in (("all epochs", full), ("stopped", stopped)):
        for name in ("no term", "proximity 1", "proximity 3"):
            rows.append([f"{title}, {name}", *(cell(found[market], name) for market in MARKETS)])
    rows += [[label, *(cell(full[market], key) for market in MARKETS)] for key, label in RULES.items()]
    return _grid(["strategy (Sharpe; total return)", *MARKETS], rows)


def _honest(full: Found, stopped: Found) -> str:
    rows = []
    for title, found in (("all epochs", full), ("stopped", stopped)):
        for market, result in found.items():
            for name in ("no term", "proximity 3"):
                difference = _interval(result["strategies"][name]["less half_half"])
                chance = f"{result['placebo'][name]['p_value']:.3f}"
                rows.append([title, market, name, difference, chance, f"{result['deflated'][name]:.2f}"])
    return _grid(["design", "pair", "term, λ", "less half/half", "p", "deflated"], rows)


def _fills() -> str:
    found = load("fill")
    names = list(found["BTC"]["fills"])
    moments = list(found["BTC"]["fills"][names[0]])
    rows = [
        [market, name, *(_interval(result["fills"][name][moment]["sharpe"]) for moment in moments)]
        for market, result in found.items()
        for name in names
    ]
    return _grid(["pair", "term, λ", *moments], rows)


def _situations(found: Found) -> str:
    head = [
        "situation",
        "pair",
        "term, λ",
        "turnover a year",
        "max drawdown",
        "net Sharpe",
        "half/half Sharpe ± error",
    ]
    rows = []
    for place, regime in enumerate(found["BTC"]["regimes"]):
        for market, result in found.items():
            for name in ("no term", "proximity 3"):
                here = result["regimes"][place]
                half = here["strategies"]["half_half"]["sharpe"]
                seeds = here["seeds"][name]
                rows.append(
                    [
                        regime["name"],
                        market,
                        name,
                        _pm(seeds["turnover_per_year"], digits=0),
                        _loss(seeds["max_drawdown"]),
                        _pm(seeds["sharpe"]),
                        _pm(half, "value", "error"),
                    ]
                )
    return _grid(head, rows)


def _pm(value: dict[str, float], mean: str = "mean", error: str = "error", digits: int = 2) -> str:
    return f"{value[mean]:.{digits}f} ± {value[error]:.{digits}f}".replace("-", "−")


def _loss(value: dict[str, float]) -> str:
    return f"{100 * value['mean']:.1f} ± {100 * value['error']:.1f} %"


def _interval(value: dict[str, float]) -> str:
    return f"{value['value']:+.2f} ({value['low']:+.2f} … {value['high']:+.2f})".replace("-", "−")


def _grid(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def written(text: str) -> str:
    """The text of README.md with fresh tables."""
    before, rest = text.split(MARKS[0])
    return before + MARKS[0] + "\n" + tables() + "\n" + MARKS[1] + rest.split(MARKS[1])[1]


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
