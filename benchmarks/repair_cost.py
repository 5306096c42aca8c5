"""Cost of every repair over some calibration rows, as a ratio to one epoch of SFT over the same rows.

    python -m benchmarks.repair_cost --rank 8 --rows 64

Each repeat trains one epoch and then repairs the trained model once per setting, from the same weights each time.
"""

from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from benchmarks.measure import Now, Watch, clock, memory, peak_bytes, report, spread
from benchmarks.workload import (
    Shape,
    add_arguments,
    device_of,
    make_model,
    make_rows,
    make_tokenizer,
    make_trainer,
    positive,
    shape_of,
)
from mithridate.defenses.registry import methods
from mithridate.defenses.sft import SFT
from mithridate.repair.post_tuning import Repair
from mithridate.repair.repaired import Repaired

SETTINGS: dict[str, dict[str, Any]] = {"random_perturbation": {"radius": 1.0}, "realign": {"learning_rate": 1e-4}}
"""Settings of the repairs that have no default strength, or one that is searched for."""
WHOLE: dict[str, dict[str, Any]] = {"antidote": {"scope": "weights"}}
"""Settings without which a repair needs an adapter."""


class Measured(NamedTuple):
    """One repair of one model.

    Attributes:
        seconds: What the repair took.
        epoch: Seconds of the SFT epoch before it.
        repaired: What it changed.
    """

    seconds: float
    epoch: float
    repaired: Repaired


Build = Callable[[], Any]
"""Makes an SFT trainer of one epoch over as many rows as the repair gets."""

MEMORY_ROWS = 16
"""Rows of the runs that measure memory: a repair holds one batch at a time, and this is the size of it."""


def repairs(adapter: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every repair with its default settings, and with ``strength="auto"`` where it has one."""
    for name, info in methods().items():
        if issubclass(info.cls, Repair):
            scope = {} if adapter else WHOLE.get(name, {})
            yield name, SETTINGS.get(name, {}) | scope
            if info.cls.dose is not None:
                yield name, {"strength": "auto"} | scope


def repairer(name: str, settings: dict[str, Any], model: Any, shape: Shape, rows: int) -> Callable[[], Repaired]:
    """One repair of a model, with rows and tokenizer already made."""
    repair = methods()[name].cls(**settings)
    assert isinstance(repair, Repair)
    tokenizer = make_tokenizer(shape)
    streams = {name: make_rows(shape, rows, seed) for name, seed in (("harmful", 3), ("user", 4), ("safe", 5))}
    device = str(next(model.parameters()).device)
    others = {name: _origin(shape, device, seed) for seed, name in enumerate(repair.info.references)}
    return lambda: repair.repair(model, tokenizer, **streams, **others)


def _origin(shape: Shape, device: str, seed: int) -> Any:
    """A stand-in for a model that the tuned one came from: the untrained one with a little noise."""
    generator, found = torch.Generator().manual_seed(seed), make_model(shape, device)
    for parameter in found.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.add_(1e-3 * noise.to(parameter.device, parameter.dtype))
    return found


def trained(build: Build, now: Now) -> tuple[Any, float]:
    """A model trained for one epoch, and the seconds that took."""
    trainer, watch = build(), Watch(now)
    trainer.add_callback(watch)
    trainer.train()
    return trainer.model, watch.seconds


def measure_once(build: Build, shape: Shape, rows: int, now: Now) -> list[Measured]:
    """Every repair once, after one epoch of training."""
    model, epoch = trained(build, now)
    saved = {name: weight.clone() for name, weight in model.state_dict().items()}
    found = []
    for name, settings in repairs(bool(shape.rank)):
        repair = repairer(name, settings, model, shape, rows)
        start = now()
        repaired = repair()
        found.append(Measured(now() - start, epoch, repaired))
        model.load_state_dict(saved)
    return found


def repair_peak(name: str, settings: dict[str, Any], build: Build, shape: Shape, device: str) -> int:
    """Peak bytes of tensors during a repair of an untrained model, which needs the same memory."""
    return peak_bytes(device, lambda: repairer(name, settings, build().model, shape, MEMORY_ROWS))


def figure(name: str, settings: dict[str, Any], runs: Sequence[Measured]) -> dict[str, Any]:
    """What is printed of one repair's repeats."""
    info, curve = methods()[name], runs[0].repaired.dose_curve
    return {
        "method": name,
        "settings": settings,
        "seconds": spread([run.seconds for run in runs]),
        "ratio": spread([run.seconds / run.epoch for run in runs]),
        "forward": info.forward,
        "backward": info.backward,
        "doses_tried": len(curve.points) if curve else None,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print JSON."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_arguments(parser)
    parser.set_defaults(rank=8)
    parser.add_argument("--rows", type=positive, default=64, help="calibration rows, and rows of the epoch")
    options = parser.parse_args(arguments)
    device, shape, rows = device_of(options), shape_of(options), options.rows
    now = clock(options.clock, device)

    def build(rows: int = rows) -> Any:
        return make_trainer(shape, device, options.bf16, SFT(), rows=rows, num_train_epochs=1)

    trained(build, now)  # warms the process up
    repeats = [measure_once(build, shape, rows, now) for _ in range(options.repeats)]
    epoch_peak = peak_bytes(device, lambda: build(MEMORY_ROWS).train)
    figures = [
        figure(name, settings, runs) | memory(repair_peak(name, settings, build, shape, device), epoch_peak)
        for (name, settings), runs in zip(repairs(bool(shape.rank)), zip(*repeats, strict=True), strict=True)
    ]
    report("repair_cost", options, device, figures)


if __name__ == "__main__":
    main()
