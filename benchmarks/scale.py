"""How the time and memory of a step grow with the model, the batch and the sequence, for SFT and Antibody.

    python -m benchmarks.scale --widths 128 256 512

One dimension is varied at a time; the others keep their single values.
"""

from argparse import ArgumentParser
from collections.abc import Iterator, Sequence

from benchmarks.measure import clock, report
from benchmarks.step_cost import builder, compare, passes, step_seconds
from benchmarks.workload import Shape, add_arguments, device_of, positive, shape_of

METHODS = ("sft", "antibody_alignment", "antibody_tuning")
GRID = {
    "width": ("--widths", [128, 256, 512]),
    "layers": ("--depths", [2, 4, 8]),
    "batch": ("--batches", [4, 8, 16]),
    "sequence": ("--sequences", [32, 64, 128]),
}


def shapes(center: Shape, grid: dict[str, list[int]]) -> Iterator[tuple[str, Shape]]:
    """Every size of every dimension, with the name of the dimension."""
    for dimension, sizes in grid.items():
        for size in sizes:
            yield dimension, center._replace(**{dimension: size})


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print JSON."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_arguments(parser)
    parser.set_defaults(repeats=3)
    parser.add_argument("--steps", type=positive, default=2, help="steps of one run that are timed")
    for dimension, (option, sizes) in GRID.items():
        parser.add_argument(option, type=positive, nargs="*", default=sizes, dest=f"grid_{dimension}", metavar="SIZE")
    options = parser.parse_args(arguments)
    device = device_of(options)
    step_seconds(
        builder(shape_of(options), device, options.bf16), "sft", 1, clock(options.clock, device)
    )  # warms the process up
    grid = {dimension: getattr(options, f"grid_{dimension}") for dimension in GRID}
    figures = [
        {"varied": dimension} | shape._asdict() | figure | passes(figure["method"], shape)
        for dimension, shape in shapes(shape_of(options), grid)
        for figure in compare(builder(shape, device, options.bf16), METHODS, options)
    ]
    report("scale", options, device, figures)


if __name__ == "__main__":
    main()
