"""How time, operations and memory grow with every size of the work, as exponents: SFT, three papers' methods, Booster.

    python -m benchmarks.scale --rank 8 --clock processor --out docs/results/cost_growth.json

One size is varied at a time; the others keep their single values. An exponent is the slope of a figure's logarithm over
the size's, with its 95 % interval over sizes and repeats; operations are counted and have no noise.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.growth import Growth, growth
from benchmarks.measure import Now, Watch, clock, memory, peak_bytes, report, rounded, spread
from benchmarks.repair_cost import repairer
from benchmarks.step_cost import made
from benchmarks.workload import Shape, add_arguments, device_of, make_trainer, positive, shape_of

TRAINING = ("sft", "antibody_alignment", "antibody_tuning", "booster", "panacea_tuning")
REPAIR = "antidote"
GRID = {
    "width": ("--widths", [64, 128, 256]),
    "layers": ("--depths", [1, 2, 4]),
    "batch": ("--batches", [4, 8, 16]),
    "sequence": ("--sequences", [64, 128, 256]),
    "rows": ("--uploads", [16, 32, 64]),
    "harmful rows": ("--harmful-rows", [16, 32, 64]),
}
NOT_REPAIRED = ("batch", "rows")
"""Sizes that a repair does not see: it has harmful rows of its own."""


class Point(NamedTuple):
    """A method at one size of one dimension.

    Attributes:
        varied: The dimension.
        size: Its size.
        method: The method.
        shape: The shape of a step.
        rows: Rows of the upload.
        harmful: Rows of the provider's streams; rows that a repair measures on.
    """

    varied: str
    size: int
    method: str
    shape: Shape
    rows: int
    harmful: int

    @property
    def is_epoch(self) -> bool:
        """Whether the figure is of all that an upload takes, the reading of its rows included, and not of a step."""
        return self.varied in ("rows", "harmful rows")


def points(center: Shape, rows: int, grid: dict[str, list[int]], methods: Sequence[str]) -> Iterator[Point]:
    """Every size of every dimension, for every method that it concerns."""
    for varied, sizes in grid.items():
        for size in sizes:
            shape = center._replace(**{varied: size}) if varied in Shape._fields else center
            enough = max(rows, shape.batch)  # of fewer rows than that, no step has a whole batch
            counts = (size if varied == "rows" else enough, size if varied == "harmful rows" else enough)
            for method in methods:
                if method != REPAIR or varied not in NOT_REPAIRED:
                    yield Point(varied, size, method, shape, *counts)


def prepared(point: Point, device: str, steps: int, counted: bool = False) -> Callable[[Now], float]:
    """Make models and rows, and return the work, which returns its seconds by a clock.

    Args:
        point: What is measured.
        device: ``cuda`` or ``cpu``.
        steps: Optimizer steps that are timed, after a first one.
        counted: Whether attention is run in a form whose operations torch counts.
    """

    def trainer(method: str) -> Any:
        defense = made(method)
        length = {"num_train_epochs": 1} if point.varied == "rows" else {"max_steps": steps + 1}
        found = make_trainer(point.shape, device, False, defense, point.rows, point.harmful, **length)
        if counted:
            found.model.set_attn_implementation("eager")
        return found

    if point.method == REPAIR:
        model = trainer("sft").model
        _move(model)
        repair = repairer(REPAIR, {}, model, point.shape, point.harmful)
        return lambda now: _timed(repair, now)
    if point.is_epoch:  # with the trainer's own reading of rows
        return lambda now: _timed(lambda: trainer(point.method).train(), now)
    ready = trainer(point.method)

    def train(now: Now) -> float:
        watch = Watch(now)
        ready.add_callback(watch)
        ready.train()
        return watch.seconds_per_step

    return train


def operations(point: Point, device: str = "cpu") -> int:
    """Floating-point operations of the work at its shortest: two steps, an epoch or a repair."""
    work = prepared(point, device, 1, counted=True)
    with FlopCounterMode(display=False) as found:
        work(lambda: 0.0)
    return int(found.get_total_flops())


def _timed(work: Callable[[], Any], now: Now) -> float:
    start = now()
    work()
    return now() - start


@torch.no_grad()
def _move(model: Any) -> None:
    """Give a fresh adapter something to prune."""
    drawn = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.copy_(1e-3 * torch.randn(weight.shape, generator=drawn))


def measured(every: Sequence[Point], options: Namespace, device: str) -> list[dict[str, Any]]:
    """Figures of every point; runs of all methods at a size take turns."""
    peaks = {point: peak_bytes(device, partial(_working, point, device)) for point in every}
    plain = {(point.varied, point.size): point for point in every if point.method == "sft"}
    taken: dict[Point, list[float]] = {point: [] for point in every}
    if not options.count:
        now = clock(options.clock, device)
        prepared(every[0], device, 1)(now)  # warms the process up
        for _ in range(options.repeats):
            for point, seconds in taken.items():
                seconds.append(prepared(point, device, options.steps)(now))
    figures = []
    for point, seconds in taken.items():
        sft = plain[point.varied, point.size]
        figure: dict[str, Any] = {"varied": point.varied, "size": point.size, "method": point.method}
        figure |= {"operations": operations(point, device)} | memory(peaks[point], peaks[sft])
        if seconds:
            figure |= {"seconds": spread(seconds), "every": [rounded(one) for one in seconds]}
            figure |= {"ratio": spread([own / other for own, other in zip(seconds, taken[sft], strict=True)])}
        figures.append(figure)
    return figures


def _working(point: Point, device: str) -> Callable[[], Any]:
    work = prepared(point, device, 1)
    return lambda: work(lambda: 0.0)


def exponents(figures: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The exponent of every method in every dimension that has two sizes at least."""
    found = []
    for varied, method in dict.fromkeys((one["varied"], one["method"]) for one in figures):
        own = [one for one in figures if (one["varied"], one["method"]) == (varied, method)]
        if len(own) < 2:
            continue
        fits: dict[str, Growth] = {
            kind: growth([one["size"] for one in own], [one[kind] for one in own])
            for kind in ("operations", "peak_bytes")
            if kind in own[0]
        }
        if "every" in own[0]:
            times = [(one["size"], seconds) for one in own for seconds in one["every"]]
            fits["seconds"] = growth(*zip(*times, strict=True))
        found.append({"varied": varied, "method": method} | {kind: fit.rounded() for kind, fit in fits.items()})
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print JSON."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_arguments(parser)
    parser.set_defaults(width=128, layers=2, vocabulary=1_000, rank=8, repeats=3)
    parser.add_argument("--steps", type=positive, default=2, help="steps of one run that are timed")
    parser.add_argument("--rows", type=positive, default=16, help="rows of the upload and of each provider's stream")
    parser.add_argument("--count", action="store_true", help="operations and memory only, which need no quiet machine")
    parser.add_argument("--methods", nargs="+", default=[*TRAINING, REPAIR], help="methods beside sft")
    for dimension, (option, sizes) in GRID.items():
        parser.add_argument(option, type=positive, nargs="*", default=sizes, dest=f"grid {dimension}", metavar="SIZE")
    options = parser.parse_args(arguments)
    device = device_of(options)
    grid = {dimension: getattr(options, f"grid {dimension}") for dimension in GRID}
    methods = dict.fromkeys(("sft", *options.methods))
    every = list(points(shape_of(options), options.rows, grid, tuple(methods)))
    figures = measured(every, options, device)
    report("scale", options, device, [*figures, *({"exponents": True} | one for one in exponents(figures))])


if __name__ == "__main__":
    main()
