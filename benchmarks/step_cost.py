"""Cost of one optimizer step of every training defense, as a ratio to plain SFT.

    python -m benchmarks.step_cost --rank 8

Runs of SFT and of a method take turns, so that a busy machine slows both; each ratio is of two neighbors.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.measure import Now, Watch, clock, memory, peak_bytes, report, rounded, spread
from benchmarks.workload import Shape, add_arguments, device_of, make_trainer, positive, shape_of
from mithridate.defenses.registry import method, methods
from mithridate.errors import DefenseError
from mithridate.training.defense import Defense

MEMORY_STEPS = 2
"""The second step holds the optimizer's state from its start."""

Build = Callable[[str, int], Any]
"""From a method's name and a number of steps to its trainer."""


def builder(shape: Shape, device: str, bf16: bool) -> Build:
    """Trainers of one shape; ``trl`` is TRL's own, without Mithridate."""

    def build(name: str, steps: int) -> Any:
        defense = None if name == "trl" else method(name).cls()
        assert defense is None or isinstance(defense, Defense)
        return make_trainer(shape, device, bf16, defense, rows=2 * shape.batch, max_steps=steps)

    return build


def step_seconds(build: Build, name: str, steps: int, now: Now) -> float:
    """Mean seconds of one step."""
    trainer, watch = build(name, steps + 1), Watch(now)
    trainer.add_callback(watch)
    trainer.train()
    return watch.seconds_per_step


def step_peak(build: Build, name: str, device: str) -> int:
    """Peak bytes of tensors over a short run."""
    return peak_bytes(device, lambda: build(name, MEMORY_STEPS).train)


def compare(build: Build, names: Sequence[str], options: Namespace) -> list[dict[str, Any]]:
    """Seconds and peak bytes of methods, beside SFT's."""
    device = device_of(options)
    now = clock(options.clock, device)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.repeats):
        for name in names:
            plain = step_seconds(build, "sft", options.steps, now)
            seconds[name].append(step_seconds(build, name, options.steps, now))
            ratios[name].append(seconds[name][-1] / plain)
    peaks = {name: step_peak(build, name, device) for name in dict.fromkeys(("sft", *names))}
    return [
        {
            "method": name,
            "seconds": spread(seconds[name]),
            "ratio": spread(ratios[name]),
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
    info = method("sft" if name == "trl" else name)
    backward = shape.backward_in_forwards
    expected = (info.forward + backward * info.backward) / (1 + backward)
    return {"forward": info.forward, "backward": info.backward, "expected_ratio": rounded(expected)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print JSON."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_arguments(parser)
    parser.add_argument("--steps", type=positive, default=4, help="steps of one run that are timed")
    parser.add_argument("--methods", nargs="+", help="training methods; all by default")
    options = parser.parse_args(arguments)
    device, shape = device_of(options), shape_of(options)
    names = ["trl", *options.methods] if options.methods else everything()
    build = builder(shape, device, options.bf16)
    step_seconds(build, "sft", 1, clock(options.clock, device))  # warms the process up
    refused = {name: reason for name in names if (reason := refusal(build, name))}
    figures = compare(build, [name for name in names if name not in refused], options)
    rows = [figure | passes(figure["method"], shape) for figure in figures]
    report("step_cost", options, device, rows + [{"method": name, "refused": why} for name, why in refused.items()])


if __name__ == "__main__":
    main()
