"""Cost of the upload gate over an upload, as a ratio to one epoch of SFT over the same rows.

    python -m benchmarks.gate_cost --rank 8 --rows 256 --clock processor

Each repeat trains one epoch and then scores the same rows with every choice of signals.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from benchmarks.measure import clock as clock_named
from benchmarks.measure import memory, peak_bytes, report, spread
from benchmarks.repair_cost import trained
from benchmarks.workload import (
    Shape,
    add_arguments,
    device_of,
    make_refusals,
    make_rows,
    make_tokenizer,
    make_trainer,
    positive,
    shape_of,
)
from mithridate.defenses.sft import SFT
from mithridate.gates.base_signal import GateSignal
from mithridate.gates.provider import GateProvider
from mithridate.gates.signal_catalog import default_signals
from mithridate.gates.upload_gate import UploadGate

MEMORY_ROWS = 16
"""Rows of the runs that measure memory: a gate holds one batch at a time, and this is the size of it."""


def choices() -> dict[str, tuple[GateSignal, ...]]:
    """All default signals, those without a model, and all but the one that differentiates."""
    signals = default_signals()
    return {
        "all": signals,
        "without gradients": tuple(one for one in signals if one.name != "gradient_match"),
        "without a model": tuple(one for one in signals if "model" not in one.needs),
    }


def make_gate(shape: Shape, device: str, signals: Sequence[GateSignal], model: Any) -> UploadGate:
    """A gate of some signals over a model and random rows."""
    provider = GateProvider(
        model.to(device),
        make_tokenizer(shape),
        harmful=make_rows(shape, 32, seed=3),
        ordinary=make_rows(shape, 32, seed=5),
        refusals=make_refusals(shape),
        max_length=shape.sequence,
        batch_size=shape.batch,
    )
    return UploadGate(provider, signals)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print JSON."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_arguments(parser)
    parser.set_defaults(rank=8)
    parser.add_argument("--rows", type=positive, default=256, help="rows of the upload, and of the epoch")
    options = parser.parse_args(arguments)
    device, shape, rows = device_of(options), shape_of(options), options.rows
    now = clock_named(options.clock, device)

    def build(count: int = rows) -> Any:
        return make_trainer(shape, device, options.bf16, SFT(), rows=count, num_train_epochs=1)

    model, _ = trained(build, now)  # warms the process up
    gates = {name: make_gate(shape, device, signals, model) for name, signals in choices().items()}
    upload = make_rows(shape, rows, seed=7)
    seconds: dict[str, list[float]] = {name: [] for name in gates}
    epochs, ready = [], {}
    for name, gate in gates.items():
        start = now()
        gate.state  # noqa: B018  # the provider's rows are read once, not for each upload
        ready[name] = now() - start
    for _ in range(options.repeats):
        epochs.append(trained(build, now)[1])
        for name, gate in gates.items():
            start = now()
            gate.scores(upload)
            seconds[name].append(now() - start)
    plain = peak_bytes(device, lambda: build(MEMORY_ROWS).train)
    figures = []
    for name, gate in gates.items():

        def scoring(gate: UploadGate = gate) -> Any:
            few = make_rows(shape, MEMORY_ROWS, seed=7)
            return lambda: gate.scores(few)

        figures.append(
            {
                "signals": name,
                "seconds": spread(seconds[name]),
                "ratio": spread([own / epoch for own, epoch in zip(seconds[name], epochs, strict=True)]),
                "seconds_once": ready[name],
                **memory(peak_bytes(device, scoring), plain),
            }
        )
    report("gate_cost", options, device, figures)


if __name__ == "__main__":
    main()
