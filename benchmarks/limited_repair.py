"""One repair in a process of its own with little memory: ``python -m benchmarks.limited_repair JSON``."""

import json
import resource
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import torch

import mithridate as mi
from benchmarks.workload import Shape, make_rows
from mithridate.defenses import lox, safe_delta, safe_lora
from mithridate.defenses.registry import methods
from mithridate.errors import ModelError
from mithridate.experiment import checkpoint_repair
from mithridate.models.loading import Where, load
from mithridate.models.stored_sums import StoredGrams
from mithridate.repair.noise import Noise
from mithridate.repair.post_tuning import Repair
from mithridate.repair.stored_inputs import StoredInputs

SEEDS = {"harmful": 3, "safe": 5}
"""Of the rows of each stream."""
APART: dict[str, list[tuple[Any, str]]] = {
    "opening": [(checkpoint_repair, "checkpoint_inputs")],
    "calibration": [(StoredInputs, "input_norms"), (StoredInputs, "whole_gradient"), (StoredGrams, "pop")],
    "algebra": [
        (lox, "low_rank_factors"),
        (safe_lora, "project"),
        (safe_lora, "cosine"),
        (safe_delta, "least_with_columns"),
        (safe_delta.SafeDelta, "_kept"),
        (Noise, "norm"),
    ],
}
"""What a repair does beside reading, changing and writing weights: making models without values from their settings,
which takes as long for small weights as for large ones, passes over rows, and arithmetic of more than
a few operations per weight (products, inverses and eigenvectors of matrices, random numbers)."""


def main(asked: dict[str, Any]) -> dict[str, Any]:
    """Repair, and return seconds and bytes.

    Args:
        asked: ``method``, ``settings``, ``paths``, ``out``, ``shape``, ``rows``, ``limit`` (bytes of writable memory
            beyond what Python and its libraries take; 0 for no limit), ``by_shard``.
    """
    shape, repair = Shape(**asked["shape"]), methods()[asked["method"]].cls(**asked["settings"])
    assert isinstance(repair, Repair)
    references = {name: asked["paths"][name] for name in repair.info.references}
    rows = {name: list(make_rows(shape, asked["rows"], seed)) for name, seed in SEEDS.items() if name in repair.streams}
    given: dict[str, Any] = rows | references
    # What Python and its libraries take is no part of a repair.
    before = _status("VmRSS")
    if asked["limit"]:
        limit = _status("VmData") + asked["limit"]
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    apart = timed_apart()
    start, processor = time.perf_counter(), time.process_time()
    try:
        if asked["by_shard"]:
            mi.repair_checkpoint(repair, asked["paths"]["tuned"], asked["out"], **given)
        else:
            # All models at once, which is what a repair in memory begins with.
            held = [load(Where(path, None), "auto") for path in (asked["paths"]["tuned"], *references.values())]
            for parameter in (parameter for model in held for parameter in model.parameters()):
                parameter.data.mul_(1)
    except (MemoryError, RuntimeError, ModelError) as error:
        # Torch's allocator and a thread without a stack raise a RuntimeError, an unloadable model one of ours.
        told = str(error).lower()
        if not isinstance(error, MemoryError) and "memory" not in told and "new thread" not in told:
            raise
        return {"out_of_memory": True}
    return {
        "seconds": time.perf_counter() - start,
        "processor_seconds": time.process_time() - processor,
        "threads": torch.get_num_threads(),
        **apart,
        "peak_bytes": _status("VmHWM"),
        "before_bytes": before,
    }


def timed_apart() -> dict[str, float]:
    """Make the functions of `APART` add up their seconds from now on, and return where they do so."""
    sums = {f"{kind}_seconds": 0.0 for kind in APART}
    for kind, owners in APART.items():
        for owner, name in owners:
            setattr(owner, name, _timed(getattr(owner, name), sums, f"{kind}_seconds"))
    return sums


def _timed(function: Callable[..., Any], sums: dict[str, float], kind: str) -> Callable[..., Any]:
    @wraps(function)
    def timed(*given: Any, **named: Any) -> Any:
        start = time.perf_counter()
        found = function(*given, **named)
        # What other threads do meanwhile takes no time of its own.
        if current_thread() is main_thread():
            sums[kind] += time.perf_counter() - start
        return found

    return timed


def _status(field: str) -> int:
    """Bytes that Linux says of this process: VmRSS, what it holds; VmHWM, the most it has held; VmData, writable."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
