"""The figures of `benchmarks.big_checkpoint` as a Markdown table.

python -m benchmarks.big_checkpoint_table docs/results/big_checkpoint.json --doc docs/big-checkpoints.md
"""

import json
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.documents import put

MARK = "big checkpoints"
MB = 1e6


def table(content: Mapping[str, Any]) -> str:
    """One line per method, and above it what was measured and where."""
    return "\n".join(_lines(content))


def _lines(content: Mapping[str, Any]) -> Iterator[str]:
    first, settings = content["figures"][0], content["settings"]
    machine = content["machine"]
    mb = {name: f"{first[name] / MB:.0f} MB" for name in ("model_bytes", "limit_bytes")}
    fit = "fit" if first.get("fits_in_memory") else "do not fit"
    yield (
        f"A bfloat16 model of {mb['model_bytes']} (width {settings['width']}, {settings['layers']} blocks, "
        f"{settings['vocabulary']} tokens) in files of {settings['shard'] * 1000:.0f} MB; {settings['rows']} "
        f"calibration rows of {settings['sequence']} tokens; {mb['limit_bytes']} of writable memory per repair, into "
        f"which the models {fit}; {machine['cores']} cores. Median of "
        f"{settings['repeats']} runs [least, greatest], each beside copies of its own; the last three columns are "
        "ratios of seconds."
    )
    yield ""
    yield (
        "| Method | Models read | Threads | Own memory, MB | Processor seconds | of a copy | Opening, s | Rows, s | "
        "Algebra, s | Whole repair / copy | Rest / copy | Rest / copy that reads as much |"
    )
    yield "|---|" + "---:|" * 11
    for one in content["figures"]:
        yield f"| `{one['method']}` | {one['models_read']} | {' | '.join(_cells(one))} |"


def _cells(one: Mapping[str, Any]) -> list[str]:
    if "refused" in one:
        return [one["refused"], *["–"] * 9]
    return [
        str(one["threads"]),
        f"{one['own_bytes'] / MB:.0f}",
        *(f"{one[name]['median']:.1f}" for name in ("processor_seconds", "copy_processor_seconds")),
        *(_seconds(one[name]["median"]) for name in ("opening_seconds", "calibration_seconds", "algebra_seconds")),
        *(_ratio(one[name]) for name in ("ratio", "rest_ratio", "rest_reading_ratio")),
    ]


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value else "–"


def _ratio(found: Mapping[str, float]) -> str:
    return f"{found['median']:.2g} [{found['min']:.2g}, {found['max']:.2g}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of a file, or put it into a document."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, help="JSON of the benchmark")
    parser.add_argument("--doc", type=Path, help="document with the marks")
    options = parser.parse_args(arguments)
    text = table(json.loads(options.file.read_text(encoding="utf-8")))
    if options.doc is None:
        print(text)
    else:
        put(text, options.doc, MARK)


if __name__ == "__main__":
    main()
