"""Cost of one optimizer step of every training defense, as a ratio to plain SFT.

    python -m benchmarks.step_cost --rank 8

Runs of SFT and of a method take turns, so that a busy machine slows both; each ratio is of two neighbors.
"""

import statistics
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks.measure import Now, Watch, clock, memory, peak_bytes, report, rounded, spread
from benchmarks.workload import Shape, add_arguments, device_of, make_trainer, positive, shape_of
from mithridate.defenses.registry import method, methods
from mithridate.defenses.sft import SFT
from mithridate.errors import DefenseError
from mithridate.training.defense import Defense

MEMORY_STEPS = 2
"""The second step holds the optimizer's state from its start."""

SETTINGS: dict[str, dict[str, Any]] = {"tar": {"inner_steps": 4, "tamper_every": 2}}
"""Settings of methods whose own would take too long: TAR's adversary takes 64 steps inside each."""
SAFE_ROWS = 128
"""Rows of each stream: as many as SaLoRA and Antibody read before the first step."""

MEASURED: dict[str, dict[str, Any]] = {"antibody_tuning": {"temperature": "auto"}}
"""Settings of methods that measure themselves before the first step, by ``--measured``."""

Build = Callable[[str, int], Any]
"""From a method's name and a number of steps to its trainer."""


def builder(shape: Shape, device: str, bf16: bool, measured: bool = False) -> Build:
    """Trainers of one shape; ``trl`` is TRL's own, without Mithridate."""

    def build(name: str, steps: int) -> Any:
        return make_trainer(
            shape, device, bf16, made(name, measured), rows=2 * shape.batch, provider_rows=SAFE_ROWS, max_steps=steps
        )

    return build


def made(name: str, measured: bool = False) -> Defense | None:
    """The method as it is measured; None for TRL's own trainer."""
    if name == "trl":
        return None
    defense = method(name).cls(**SETTINGS.get(name, {}) | (MEASURED.get(name, {}) if measured else {}))
    assert isinstance(defense, Defense)
    return defense


class StepTime(NamedTuple):
    """Times of a run.

    Attributes:
        step: Mean seconds of a step, but the first.
        before: Seconds of the first step beyond these: set-up, buffers and the optimizer's state.
    """

    step: float
    before: float


def step_time(build: Build, name: str, steps: int, now: Now) -> StepTime:
    """Train for some steps."""
    trainer, watch = build(name, steps + 1), Watch(now)
    trainer.add_callback(watch)
    trainer.train()
    return StepTime(watch.seconds_per_step, watch.times[1] - watch.times[0] - watch.seconds_per_step)


def step_seconds(build: Build, name: str, steps: int, now: Now) -> float:
    """Mean seconds of one step."""
    return step_time(build, name, steps, now).step


def step_peak(build: Build, name: str, device: str) -> int:
    """Peak bytes of tensors over a short run."""
    return peak_bytes(device, lambda: build(name, MEMORY_STEPS).train)


def compare(build: Build, names: Sequence[str], options: Namespace) -> list[dict[str, Any]]:
    """Seconds and peak bytes of methods, beside SFT's."""
    device = device_of(options)
    now = clock(options.clock, device)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    ratios: dict[str, list[float]] = {name: [] for name in names}
    before: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.repeats):
        for name in names:
            plain = step_time(build, "sft", options.steps, now)
            own = step_time(build, name, options.steps, now)
            seconds[name].append(own.step)
            ratios[name].append(own.step / plain.step)
            before[name].append((own.before - plain.before) / plain.step)
    peaks = {name: step_peak(build, name, device) for name in dict.fromkeys(("sft", *names))}
    return [
        {
            "method": name,
            "seconds": spread(seconds[name]),
            "ratio": spread(ratios[name]),
            "once_in_steps": rounded(max(0.0, statistics.median(before[name]))),
        }
        | memory(peaks[name], peaks["sft"])
        for name in names
    ]


def everything() -> list[str]:
    """TRL itself and all training methods."""
    return ["trl", *(name for name, info in methods().items() if issubclass(info.cls, Defense))]


def refusal(build: Build, name: str) -> str | None:
    """Why a method cannot act on this shape, such as one that needs an adapter; None if it can."""
    try:
        build(name, 1).train()
    except DefenseError as error:
        return str(error)
    return None


def passes(name: str, shape: Shape) -> dict[str, Any]:
    """Registered passes, and the ratio to SFT that they let expect."""
    passes = (made(name) or SFT()).passes
    backward = shape.backward_in_forwards
    expected = (passes.forward + backward * passes.backward) / (1 + backward)
    return {"forward": passes.forward, "backward": passes.backward, "expected_ratio": rounded(expected)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print JSON."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_arguments(parser)
    parser.add_argument("--steps", type=positive, default=4, help="steps of one run that are timed")
    parser.add_argument("--methods", nargs="+", help="training methods; all by default")
    parser.add_argument("--measured", action="store_true", help="with settings that are measured before the first step")
    options = parser.parse_args(arguments)
    device, shape = device_of(options), shape_of(options)
    names = ["trl", *options.methods] if options.methods else everything()
    build = builder(shape, device, options.bf16, options.measured)
    step_seconds(build, "sft", 1, clock(options.clock, device))  # warms the process up
    refused = {name: reason for name in names if (reason := refusal(build, name))}
    figures = compare(build, [name for name in names if name not in refused], options)
    rows = [figure | passes(figure["method"], shape) for figure in figures]
    report("step_cost", options, device, rows + [{"method": name, "refused": why} for name, why in refused.items()])


if __name__ == "__main__":
    main()
