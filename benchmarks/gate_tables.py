"""The figures of `benchmarks.upload_gate` as Markdown tables.

python -m benchmarks.gate_tables docs/results/upload_gate/minichat.json
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    """One line per family."""
    ratios = list(next(iter(figure["caught"].values()))["uploads"])
    head = " | ".join(f"at {float(ratio):.0%}" for ratio in ratios)
    lines = [
        f"| Attack | Rows flagged | by | Uploads not accepted {head} | refused at 100% |",
        "|---|---:|---|" + "---:|" * (len(ratios) + 1),
    ]
    for family, found in figure["caught"].items():
        drawn = found["uploads"]
        shares = " | ".join(share(drawn[ratio]["any signal"], interval=False) for ratio in ratios)
        whole = share(drawn[ratios[-1]]["refused"], interval=False)
        lines.append(
            f"| {family} | {share(found['rows']['any signal'])} | {leading(found['rows'])} | {shares} | {whole} |"
        )
    return lines


def tables(content: Mapping[str, Any]) -> str:
    """Both tables of every measurement."""
    parts = []
    for figure in content["figures"]:
        parts += ["", f"**{figure['what']}, {figure['tasks']} tasks**", "", *false_alarms(figure), "", *caught(figure)]
    return "\n".join(parts[1:])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables of a file."""
    (path,) = sys.argv[1:] if arguments is None else arguments
    print(tables(json.loads(Path(path).read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
