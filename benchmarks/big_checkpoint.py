"""Repairs of checkpoints on disk that are larger than the memory given to the process.

    python -m benchmarks.big_checkpoint --width 2048 --layers 20 --vocabulary 32000 --limit 0.5

Base, aligned and tuned checkpoints with random weights are written to disk. Each repair runs in a process whose
writable memory, beyond what Python and its libraries take, is limited. Its seconds are compared with those of a plain
copy of the tuned checkpoint, made right before it. What is copied or repaired reaches the disk before the clock stops.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.measure import report, rounded, spread
from benchmarks.stored_models import make_checkpoints
from benchmarks.workload import add_arguments, positive, shape_of

GB = 10**9
SETTINGS: dict[str, dict[str, Any]] = {
    "wise_ft": {},
    "resta": {"strength": 0.5},
    "antidote": {"scope": "weights"},
    "random_perturbation": {"radius": 5.0},
    "panacea": {"radius": 5.0},
    "lox": {},
    "safe_lora": {},
    "safe_delta": {},
}
"""Repairs that can be measured, with settings at which they act on whole weights."""


def copied(source: Path, target: Path) -> float:
    """Copy a folder, bring its bytes to the disk, and return the seconds."""
    start = time.perf_counter()
    target.mkdir()
    for path in sorted(source.iterdir()):
        with path.open("rb") as read, (target / path.name).open("wb") as write:
            shutil.copyfileobj(read, write, 1 << 24)
            write.flush()
            os.fsync(write.fileno())
    seconds = time.perf_counter() - start
    shutil.rmtree(target)
    return seconds


def repaired(method: str, paths: dict[str, Path], out: Path, options: Namespace, by_shard: bool = True) -> Any:
    """Repair in a process of its own, and return what it measured."""
    asked = {
        "method": method,
        "settings": SETTINGS[method],
        "paths": {name: str(path) for name, path in paths.items()},
        "out": str(out),
        "shape": shape_of(options)._asdict(),
        "rows": options.rows,
        "limit": int(options.limit * GB),
        "by_shard": by_shard,
    }
    command = [sys.executable, "-m", "benchmarks.limited_repair", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{method} failed: {done.stderr[-2000:]}")
    # A repair that ran out of memory leaves what it had finished, which the next one must not go on from.
    for folder in (out, out.with_name(f".{out.name}.partial")):
        shutil.rmtree(folder, ignore_errors=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(method: str, paths: dict[str, Path], folder: Path, options: Namespace) -> dict[str, Any]:
    """Copies and repairs, in turns."""
    copies, repairs = [], []
    for _ in range(options.repeats):
        copies.append(copied(paths["tuned"], folder / "copy"))
        repairs.append(repaired(method, paths, folder / "out", options))
    if any("out_of_memory" in one for one in repairs):
        return {"method": method, "settings": SETTINGS[method], "refused": f"needs more than {options.limit} GB"}
    seconds = [one["seconds"] for one in repairs]
    peak = max(one["peak_bytes"] for one in repairs)
    return {
        "method": method,
        "settings": SETTINGS[method],
        "seconds": spread(seconds),
        "processor_seconds": spread([one["processor_seconds"] for one in repairs]),
        "copy_seconds": spread(copies),
        "ratio": spread([one / copy for one, copy in zip(seconds, copies, strict=True)]),
        "peak_bytes": peak,
        "own_bytes": peak - min(one["before_bytes"] for one in repairs),
        "peak_ratio": rounded(peak / size(paths["tuned"])),
    }


def size(folder: Path) -> int:
    """Bytes of a checkpoint's weights."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print JSON."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_arguments(parser)
    parser.set_defaults(repeats=1)
    parser.add_argument("--methods", nargs="*", choices=list(SETTINGS), default=["wise_ft", "resta", "antidote"])
    parser.add_argument("--rows", type=positive, default=4, help="calibration rows")
    parser.add_argument("--limit", type=float, default=0.5, help="gigabytes of memory per repair; 0 for no limit")
    parser.add_argument("--shard", type=float, default=0.25, help="gigabytes of one file")
    parser.add_argument("--folder", help="where checkpoints go for a while; a temporary folder by default")
    options = parser.parse_args(arguments)
    with TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        paths = make_checkpoints(shape_of(options), folder, int(options.shard * GB))
        common: dict[str, Any] = {"model_bytes": size(paths["tuned"]), "limit_bytes": int(options.limit * GB)}
        if options.limit:
            in_memory = repaired(options.methods[0], paths, folder / "out", options, by_shard=False)
            common["fits_in_memory"] = "out_of_memory" not in in_memory
        figures = [common | measure(method, paths, folder, options) for method in options.methods]
    report("big_checkpoint", options, "cpu", figures)


if __name__ == "__main__":
    main()
