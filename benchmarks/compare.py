"""Set two results of one benchmark side by side: what became slower, faster, larger or smaller beyond the noise.

    python -m benchmarks.step_cost --out before.json          # on the old code, then on the new one with after.json
    python -m benchmarks.compare before.json after.json

Prints a Markdown table, or JSON with ``--json``. With ``--fail`` the exit status is 1 if anything became slower or
larger.
"""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SAME = ("device", "cores", "threads")
"""What of a machine must be the same for seconds to be compared."""
SIZES = ("varied", "width", "layers", "vocabulary", "batch", "sequence", "rank")
MEMORY_NOISE = 0.01
"""Relative change of peak bytes that is called a change; repeated runs differ by less."""

Result = Mapping[str, Any]
Key = tuple[str, ...]


class Change(NamedTuple):
    """One figure in both results.

    Attributes:
        name: Method, with its settings and sizes where there are several.
        unit: ``ratio`` to plain SFT, ``seconds`` or ``peak bytes``.
        before: Median before.
        after: Median after.
        factor: After over before.
        verdict: ``slower``, ``faster``, ``larger``, ``smaller``, or ``within noise``.
    """

    name: str
    unit: str
    before: float
    after: float
    factor: float
    verdict: str


def compare(before: Result, after: Result) -> list[Change]:
    """Return every figure that both results have, in the order of the second.

    Ratios to plain SFT are always compared, since both runs of a ratio share a machine; seconds where the two results
    are from machines of one kind. A change counts if the ranges over the repeats do not overlap and it is larger than
    what SFT differs from itself, where that was measured.

    Raises:
        SystemExit: If the results are of different benchmarks or settings.
    """
    _refuse_unlike(before, after)
    old, new = _figures(before), _figures(after)
    noise = max(_own_noise(old), _own_noise(new))
    units = ["ratio", *(["seconds"] if _same_machine(before, after) else [])]
    changes = []
    for key in (key for key in new if key in old):
        for unit in units:
            changes.append(_time(" ".join(key), unit, old[key][unit], new[key][unit], noise))
        changes.append(_memory(" ".join(key), old[key]["peak_bytes"], new[key]["peak_bytes"]))
    return changes


def unmatched(before: Result, after: Result) -> list[str]:
    """Return the figures that only one result has."""
    old, new = _figures(before), _figures(after)
    return [" ".join(key) for key in [*(k for k in old if k not in new), *(k for k in new if k not in old)]]


def table(changes: Sequence[Change]) -> str:
    """Return the changes as a Markdown table."""
    lines = ["| Figure | Unit | Before | After | After / before | Verdict |", "|---|---|---:|---:|---:|---|"]
    for change in changes:
        verdict = change.verdict if change.verdict == "within noise" else f"**{change.verdict}**"
        values = f"{change.before:.4g} | {change.after:.4g} | {change.factor:.2f}"
        lines.append(f"| {change.name} | {change.unit} | {values} | {verdict} |")
    return "\n".join(lines)


def _refuse_unlike(before: Result, after: Result) -> None:
    if before["benchmark"] != after["benchmark"]:
        sys.exit(f"the results are of {before['benchmark']} and of {after['benchmark']}; compare two of one benchmark")
    old, new = before["settings"], after["settings"]
    unlike = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if unlike:
        sys.exit(f"the results have different settings: {', '.join(unlike)}; measure both with the same options")


def _same_machine(before: Result, after: Result) -> bool:
    return all(before["machine"].get(name) == after["machine"].get(name) for name in SAME)


def _figures(result: Result) -> dict[Key, Result]:
    """Figures by what they are of; a method that refused to act has none."""
    return {_key(figure): figure for figure in result["figures"] if "refused" not in figure}


def _key(figure: Result) -> Key:
    sizes = [f"{name}={figure[name]}" for name in SIZES if name in figure]
    settings = [f"{name}={value}" for name, value in figure.get("settings", {}).items()]
    return (figure["method"], *settings, *sizes)


def _own_noise(figures: Mapping[Key, Result]) -> float:
    """How far SFT's ratio to itself lies from 1 at most; 0 where it was not measured."""
    own = [figure["ratio"] for key, figure in figures.items() if key[0] == "sft"]
    return max((abs(ratio[end] - 1) for ratio in own for end in ("min", "max")), default=0.0)


def _time(name: str, unit: str, before: Result, after: Result, noise: float) -> Change:
    factor = after["median"] / before["median"]
    verdict = "within noise"
    if abs(factor - 1) > noise:
        verdict = "slower" if after["min"] > before["max"] else "faster" if after["max"] < before["min"] else verdict
    return Change(name, unit, before["median"], after["median"], factor, verdict)


def _memory(name: str, before: float, after: float) -> Change:
    factor = after / before
    verdict = "larger" if factor > 1 + MEMORY_NOISE else "smaller" if factor < 1 - MEMORY_NOISE else "within noise"
    return Change(name, "peak bytes", before, after, factor, verdict)


def _read(path: Path) -> Result:
    try:
        result: Result = json.loads(path.read_text(encoding="utf-8"))
        return {name: result[name] for name in ("benchmark", "settings", "machine", "figures")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"{path} is no result of a benchmark ({error!r}); make one with --out")


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare two files and print what changed."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--fail", action="store_true", help="exit with 1 if anything became slower or larger")
    options = parser.parse_args(arguments)
    before, after = _read(options.before), _read(options.after)
    changes, alone = compare(before, after), unmatched(before, after)
    if options.json:
        print(json.dumps({"changes": [change._asdict() for change in changes], "unmatched": alone}, indent=2))
    else:
        print(table(changes))
        if alone:
            print(f"\nOnly in one of the two: {', '.join(alone)}.")
    if options.fail and any(change.verdict in ("slower", "larger") for change in changes):
        sys.exit(1)


if __name__ == "__main__":
    main()
