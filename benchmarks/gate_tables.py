"""The figures of `benchmarks.upload_gate` as Markdown tables.

python -m benchmarks.gate_tables docs/results/upload_gate/minichat.json
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mithridate.evaluation.intervals import Score

NEITHER = ("any signal", "refused")


def share(score: Mapping[str, Any], interval: bool = True) -> str:
    """A share in percent, with its interval."""
    value = f"{100 * score['value']:.0f}%"
    return f"{value} [{100 * score['low']:.0f}, {100 * score['high']:.0f}]" if interval else value


def leading(scores: Mapping[str, Any], most: int = 4) -> str:
    """The signals with the largest shares, in order."""
    found = sorted(((name, s) for name, s in scores.items() if name not in NEITHER), key=lambda one: -one[1]["value"])
    return ", ".join(
        f"`{name}` {share(score, interval=False)}" for name, score in found[:most] if score["value"] >= 0.01
    )


def false_alarms(figure: Mapping[str, Any]) -> list[str]:
    """One line per harmless task, and one for all."""
    alarms = figure["false_alarms"]
    lines = [
        "| Harmless task | Rows flagged | by | Uploads not accepted | Uploads refused |",
        "|---|---:|---|---:|---:|",
    ]
    for task, rows in alarms["rows"].items():
        drawn = alarms["uploads"][task]
        lines.append(
            f"| {task} | {share(rows['any signal'])} | {leading(rows)} | {share(drawn['any signal'])} | "
            f"{share(drawn['refused'])} |"
        )
    every = alarms["all uploads"]
    return [*lines, f"| all | | {leading(every)} | {share(every['any signal'])} | {share(every['refused'])} |"]


def caught(figure: Mapping[str, Any]) -> list[str]:
    """One line per family, and the share of families caught mostly; a star marks families that could be looked at."""
    ratios = sorted({ratio for found in figure["caught"].values() for ratio in found["uploads"]}, key=float)
    head = " | ".join(f"at {float(ratio):.0%}" for ratio in ratios)
    lines = [
        f"| Attack | Files | Rows flagged | by | Not accepted {head} | refused at 100% |",
        "|---|---:|---:|---|" + "---:|" * (len(ratios) + 1),
    ]
    for family, found in figure["caught"].items():
        star = " *" if found["settings_chosen_on_it"] else ""
        rows, by = (
            (share(found["rows"]["any signal"], False), leading(found["rows"], 2)) if found["rows"] else ("–", "")
        )
        cells = _cells(found["uploads"], ratios, interval=False)
        lines.append(f"| {family}{star} | {found['files']} | {rows} | {by} | {cells} |")
    for half, drawn in figure["families caught"].items():
        lines.append(f"| families {half} | | | | {_cells(drawn, ratios)} |")
    return lines


def _cells(drawn: Mapping[str, Any], ratios: Sequence[str], interval: bool = True) -> str:
    not_accepted = [share(drawn[ratio]["any signal"], interval) if ratio in drawn else "–" for ratio in ratios]
    return " | ".join([*not_accepted, share(drawn[ratios[-1]]["refused"], interval)])


def by_signal(figure: Mapping[str, Any]) -> list[str]:
    """One line per signal: how often it is wrong, and what it catches of the families for the report alone."""
    alarms, drawn = figure["false_alarms"], figure["families caught"]["for the report alone"]
    attacks = [one["rows"] for one in figure["caught"].values() if one["rows"] and not one["settings_chosen_on_it"]]
    scores = [alarms["all uploads"], *drawn.values(), *attacks, *alarms["rows"].values()]
    names = sorted({name for one in scores for name in one} - set(NEITHER))
    head = " | ".join(f"Families at {float(ratio):.0%}" for ratio in drawn)
    lines = [
        f"| Signal | Harmless rows | Rows of attacks | Harmless uploads | {head} |",
        "|---|" + "---:|" * (3 + len(drawn)),
    ]
    for name in (*names, NEITHER[0]):
        # Signals of uploads have no rate of rows.
        of_rows = name in NEITHER or any(line.startswith(f"| {name} | rows ") for line in figure["thresholds"])
        groups = (list(alarms["rows"].values()), attacks)
        rows = [_pooled(name, group) if of_rows else "–" for group in groups]
        cells = [*rows, *(_one(name, found) for found in (alarms["all uploads"], *drawn.values()))]
        lines.append(f"| {name if name in NEITHER else f'`{name}`'} | {' | '.join(cells)} |")
    return lines


def _pooled(name: str, found: Sequence[Mapping[str, Any]]) -> str:
    counts = [round(one[name]["value"] * one[name]["n"]) if name in one else 0 for one in found]
    return share(Score.of(sum(counts), sum(one["any signal"]["n"] for one in found)).as_dict())


def _one(name: str, found: Mapping[str, Any]) -> str:
    return share(found.get(name) or Score.of(0, found["any signal"]["n"]).as_dict())


def tables(content: Mapping[str, Any]) -> str:
    """All tables of every measurement."""
    parts = []
    for figure in content["figures"]:
        among = ", ".join(figure["attacks hide among"]) or "no task"
        parts += ["", f"**{figure['what']}, {figure['tasks']} tasks** (attacks among rows of {among})"]
        for table in (false_alarms, caught, by_signal):
            parts += ["", *table(figure)]
    return "\n".join(parts[1:])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables of a file."""
    (path,) = sys.argv[1:] if arguments is None else arguments
    print(tables(json.loads(Path(path).read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
