"""Seconds, peak memory and ratios."""

import gc
import json
import os
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import TrainerCallback

from mithridate.experiment.manifest import versions

Now = Callable[[], float]
"""Seconds of a clock."""


def clock(name: str, device: str) -> Now:
    """A clock that is read once the device has done all it was given.

    Args:
        name: ``wall``, or ``processor`` for the processor time of this process, which other processes disturb
            less.
        device: ``cuda`` or ``cpu``.

    Raises:
        SystemExit: If processor time is asked for on a GPU.
    """
    if device == "cuda" and name == "processor":
        raise SystemExit("--clock processor measures nothing on a GPU; use --clock wall")
    read = time.process_time if name == "processor" else time.perf_counter

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return read()

    return now


class Watch(TrainerCallback):  # type: ignore[misc]
    """Times of a training run.

    Args:
        now: The clock.

    Attributes:
        times: At the start of training, and at the end of each optimizer step.
    """

    def __init__(self, now: Now) -> None:
        self.now = now
        self.times: list[float] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Before the first step."""
        self.times.append(self.now())

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """After each optimizer step."""
        self.times.append(self.now())

    @property
    def seconds_per_step(self) -> float:
        """Mean over all steps but the first, which also makes the optimizer's state and warms caches up."""
        return (self.times[-1] - self.times[1]) / (len(self.times) - 2)

    @property
    def seconds(self) -> float:
        """From the start to the end of the last step."""
        return self.times[-1] - self.times[0]


def peak_bytes(device: str, prepare: Callable[[], Callable[[], Any]]) -> int:
    """Most bytes of tensors held at once, from the making of the model on.

    A process does not give memory back to the system at once, so its resident size cannot tell two methods of one
    process apart. Tensors are counted instead: by the allocator on a GPU, by torch's profiler on a CPU.

    Args:
        device: ``cuda`` or ``cpu``.
        prepare: Makes the model and returns the work, whose peak counts.
    """
    gc.collect()
    if device == "cuda":
        work = prepare()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        prepare()()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest of repeated measurements."""
    return {"median": rounded(statistics.median(values)), "min": rounded(min(values)), "max": rounded(max(values))}


def memory(peak: int, plain: int) -> dict[str, float]:
    """Peak bytes, and their ratio to plain SFT's."""
    return {"peak_bytes": peak, "peak_ratio": rounded(peak / plain)}


def rounded(value: float) -> float:
    """Four significant digits; no measurement here has more."""
    return float(f"{value:.4g}")


def report(benchmark: str, options: Namespace, device: str, figures: list[dict[str, Any]]) -> None:
    """Print one JSON object to standard output, and write it to the file that ``--out`` names."""
    machine = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    # Places on this machine are no setting.
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "folder")}
    settings["device"] = device
    content = {"benchmark": benchmark, "settings": settings, "machine": machine, "versions": versions()}
    text = json.dumps(content | {"figures": figures}, indent=2, default=str)  # a setting may be a path
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
