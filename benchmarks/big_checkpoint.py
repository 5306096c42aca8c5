"""Repairs of checkpoints on disk that are larger than the memory given to the process.

    python -m benchmarks.big_checkpoint --width 2048 --layers 20 --vocabulary 32000 --limit 0.5

Base, aligned and tuned checkpoints with random weights are written to disk. Each repair runs in a process whose
writable memory, beyond what Python and its libraries take, is limited. Its seconds are compared with those of a plain
copy of the tuned checkpoint, made right before it, and of a copy that also reads the models that the repair reads. What
is copied or repaired reaches the disk before the clock stops. Opening models, passes over calibration rows and
arithmetic on matrices are timed apart (see `limited_repair.APART`); what is left reads, changes, hashes and writes.
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
from typing import Any, NamedTuple

from benchmarks.limited_repair import APART
from benchmarks.measure import report, rounded, spread
from benchmarks.stored_models import make_checkpoints
from benchmarks.workload import add_arguments, positive, shape_of
from mithridate.defenses.registry import methods

GB = 10**9
AT_ONCE = 1 << 24
"""Bytes that a copy reads and writes at a time."""
SETTINGS: dict[str, dict[str, Any]] = {
    "wise_ft": {},
    "resta": {"strength": 0.5},
    "antidote": {"scope": "weights"},
    "random_perturbation": {"radius": 5.0},
    "panacea": {"radius": 5.0},
    "lox": {},
    "safe_lora": {"threshold": 1.0},
    "safe_delta": {},
}
"""Repairs that can be measured, with settings at which they act on whole weights."""


class Copy(NamedTuple):
    """What a copy took.

    Attributes:
        seconds: By the clock on the wall.
        processor_seconds: Of this process, the system's work for it included.
    """

    seconds: float
    processor_seconds: float


def copied(source: Path, target: Path, others: Sequence[Path] = ()) -> Copy:
    """Copy a folder and bring its bytes to the disk.

    Args:
        source: The folder.
        target: A folder that is not there; it is deleted again.
        others: Folders that are read to their ends beside it, file by file, and not written.
    """
    start, processor = time.perf_counter(), time.process_time()
    target.mkdir()
    for path in sorted(source.iterdir()):
        for other in others:
            if (other / path.name).is_file():
                _read(other / path.name)
        with path.open("rb") as read, (target / path.name).open("wb") as write:
            shutil.copyfileobj(read, write, AT_ONCE)
            write.flush()
            os.fsync(write.fileno())
    found = Copy(time.perf_counter() - start, time.process_time() - processor)
    shutil.rmtree(target)
    return found


def _read(path: Path) -> None:
    with path.open("rb") as read:
        while read.read(AT_ONCE):
            pass


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
    others = [paths[name] for name in methods()[method].references]
    copies, readings, repairs = [], [], []
    for _ in range(options.repeats):
        copies.append(copied(paths["tuned"], folder / "copy"))
        readings.append(copied(paths["tuned"], folder / "copy", others))
        repairs.append(repaired(method, paths, folder / "out", options))
    named = {"method": method, "settings": SETTINGS[method], "models_read": 1 + len(others)}
    if any("out_of_memory" in one for one in repairs):
        return named | {"refused": f"needs more than {options.limit} GB"}
    seconds = [one["seconds"] for one in repairs]
    apart = [f"{kind}_seconds" for kind in APART]
    rest = [one["seconds"] - sum(one[kind] for kind in apart) for one in repairs]
    kinds = (*apart, "processor_seconds")
    peak = max(one["peak_bytes"] for one in repairs)
    return (
        named
        | {"threads": repairs[0]["threads"]}
        | {"seconds": spread(seconds), "rest_seconds": spread(rest)}
        | {kind: spread([one[kind] for one in repairs]) for kind in kinds}
        | {
            "copy_seconds": spread([one.seconds for one in copies]),
            "copy_processor_seconds": spread([one.processor_seconds for one in copies]),
            "reading_copy_seconds": spread([one.seconds for one in readings]),
            "ratio": _ratio(seconds, copies),
            "rest_ratio": _ratio(rest, copies),
            "rest_reading_ratio": _ratio(rest, readings),
            "peak_bytes": peak,
            "own_bytes": peak - min(one["before_bytes"] for one in repairs),
            "peak_ratio": rounded(peak / size(paths["tuned"])),
        }
    )


def _ratio(seconds: Sequence[float], copies: Sequence[Copy]) -> dict[str, float]:
    return spread([one / copy.seconds for one, copy in zip(seconds, copies, strict=True)])


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
