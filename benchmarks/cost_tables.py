"""Puts what the benchmarks of cost measured into docs/cost.md, as tables.

python -m benchmarks.cost_tables docs/results docs/cost.md
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.documents import put
from mithridate.defenses.registry import method, methods
from mithridate.repair.post_tuning import Repair

Content = Mapping[str, Any]

LIMITS = {"antibody_alignment": 4.1, "booster": 3.1, "panacea_tuning": 3.1, "vaccine": 2.1}
"""Most that a step may cost against SFT's: its passes plus 5 %, rounded."""
CASES = (
    ("cost_answers_short", "antibody_tuning", "prompts and answers as long as refusals", 1.25),
    ("cost_answers_long", "antibody_tuning", "answers four times as long", 1.10),
    ("cost_anchors_long", "sbr", "8 anchors as long as the user's rows, batch of 16", 1.15),
    ("cost_anchors_short", "sbr", "8 anchors a quarter as long, batch of 16", 1.15),
)
"""Files, methods, what they were measured on, and most that a step may cost."""
DIMENSIONS = {
    "rows": "rows of the upload (an epoch)",
    "harmful rows": "provider's rows (a training), calibration rows (a repair)",
    "batch": "rows of a step",
    "sequence": "tokens of a row",
    "layers": "layers",
    "width": "width",
}
"""Sizes of the benchmark of growth, in the words of the page."""


def ratio(spread: Mapping[str, float]) -> str:
    """Median, least and greatest."""
    return f"{spread['median']:.2f} ({spread['min']:.2f} to {spread['max']:.2f})"


def verdict(spread: Mapping[str, float], limit: float | None) -> str:
    """A limit, and whether the median is within it."""
    if limit is None:
        return "–"
    return f"{limit:.2f}, {'held' if spread['median'] <= limit else '**exceeded**'}"


def steps(content: Content) -> list[str]:
    """One line per training method, in the order of the registry."""
    lines = [
        "| Method | Passes | Expected | Measured | Limit | Memory | Once, in SFT steps |",
        "|---|---|---:|---:|---|---:|---:|",
    ]
    for one in content["figures"]:
        name = one["method"]
        told = "TRL's `SFTTrainer`" if name == "trl" else f"`{name}`"
        if "refused" in one:
            lines.append(f"| {told} | – | – | refused | – | – | – |")
            continue
        passes = f"{one['forward']:g} + {one['backward']:g}"
        once = f"{one['once_in_steps']:.0f}" if one["once_in_steps"] >= 1 else "–"
        lines.append(
            f"| {told} | {passes} | {one['expected_ratio']:.2f} | {ratio(one['ratio'])} | "
            f"{verdict(one['ratio'], LIMITS.get(name))} | {one['peak_ratio']:.2f} | {once} |"
        )
    return lines


def cases(contents: Mapping[str, Content]) -> list[str]:
    """One line per case whose cost depends on the lengths of rows."""
    lines = ["| Method | Rows | Measured | Limit |", "|---|---|---:|---|"]
    for file, name, rows, limit in CASES:
        (own,) = [one for one in contents[file]["figures"] if one["method"] == name]
        lines.append(f"| `{name}` | {rows} | {ratio(own['ratio'])} | {verdict(own['ratio'], limit)} |")
    return lines


def repairs(content: Content) -> list[str]:
    """One line per repair and setting."""
    lines = ["| Repair | Passes | Doses tried | Measured | Memory |", "|---|---|---:|---:|---:|"]
    for one in content["figures"]:
        own = ", ".join(f"{key}: {value}" for key, value in one["settings"].items())
        named = f"`{one['method']}`" + (f" ({own})" if own else "")
        passes = f"{one['forward']:g} + {one['backward']:g}"
        doses = one["doses_tried"] or "–"
        lines.append(f"| {named} | {passes} | {doses} | {ratio(one['ratio'])} | {one['peak_ratio']:.2f} |")
    return lines


def growth(content: Content) -> list[str]:
    """One line per method and dimension: exponents of operations and of memory."""
    kinds = {"operations": "Operations", "peak_bytes": "Peak memory", "seconds": "Seconds"}
    fits = [one for one in content["figures"] if one.get("exponents")]
    shown = {kind: title for kind, title in kinds.items() if any(kind in one for one in fits)}
    lines = [f"| Method | Against | {' | '.join(shown.values())} |", "|---|---|" + "---:|" * len(shown)]
    for varied, words in DIMENSIONS.items():
        for one in (one for one in fits if one["varied"] == varied):
            cells = " | ".join(_exponent(one[kind]) if kind in one else "–" for kind in shown)
            lines.append(f"| `{one['method']}` | {words} | {cells} |")
    return lines


def _exponent(fit: Mapping[str, float]) -> str:
    k, low, high = (round(fit[name], 2) + 0.0 for name in ("exponent", "low", "high"))  # no -0.00
    return f"{k:.2f} ({low:.2f} to {high:.2f})"


def generation(content: Content) -> list[str]:
    """One line: batched against one by one."""
    (one,) = content["figures"]
    asked = content["settings"]
    return [
        "| Prompts | Tokens of an answer | Batch | Times as fast | Same answers |",
        "|---:|---:|---:|---:|---:|",
        f"| {one['answers']} | {asked['tokens']} | {asked['batch']} | {ratio(one['times_as_fast'])} | "
        f"{one['same_answers']} of {one['answers']} |",
    ]


def missing(*contents: Content) -> list[str]:
    """Registered methods that no table tells of."""
    told = {one["method"] for content in contents for one in content["figures"]}
    return sorted(methods().keys() - told)


def is_repair(name: str) -> bool:
    """Whether a method acts after fine-tuning."""
    return issubclass(method(name).cls, Repair)


SECTIONS: dict[str, tuple[str, Callable[[Content], list[str]]]] = {
    "steps-lora": ("cost_step_lora", steps),
    "steps-later": ("cost_step_recovery", steps),
    "steps-full": ("cost_step_full", steps),
    "steps-full-alone": ("cost_step_full_alone", steps),
    "repairs-lora": ("cost_repair_lora", repairs),
    "growth": ("cost_growth", growth),
    "growth-batch": ("cost_growth_batch", growth),
    "generation": ("cost_generation", generation),
}
"""Marks on the page, with the file that each table is made from."""


def write(folder: Path, page: Path) -> None:
    """Put every table into the page."""

    def read(name: str) -> Content:
        found: Content = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        return found

    for mark, (file, table) in SECTIONS.items():
        put("\n" + "\n".join(table(read(file))) + "\n", page, mark)
    put("\n" + "\n".join(cases({file: read(file) for file, *_ in CASES})) + "\n", page, "cases")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page."""
    folder, page = sys.argv[1:] if arguments is None else arguments
    write(Path(folder), Path(page))


if __name__ == "__main__":
    main()
