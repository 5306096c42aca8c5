"""Run by two processes at once: trains every method and writes what came out (see `test_accumulation`)."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import distributed

import mithridate as mi
from mithridate.defenses.registry import methods
from mithridate.repair.repaired import Repaired
from tests.helpers import tiny
from tests.helpers.adapters import adapted, stored
from tests.helpers.counting import Counted
from tests.helpers.training import finished, trainer
from tests.matrix.rows import cut_and_shared

REALIGNED: dict[str, dict[str, Any]] = {
    "sft": {"learning_rate": 1e-3},
    "booster": {"learning_rate": 1e-3, "inner": "booster"},
    "antibody": {"learning_rate": 1e-3, "inner": "antibody_alignment"},
    "auto": {"budget": 5.0, "safe_budget": 5.0},
}
FILLED_UP = {"rows": 13, "max_steps": -1, "num_train_epochs": 2, "gradient_accumulation_steps": 2}
"""Thirteen rows do not fill four batches of four: over two processes the sampler repeats three of them.

The last optimizer step has a whole batch and then the last one, of which a single row counts.
"""
LOPSIDED = {"max_steps": 2, "rows": 8, "per_device_train_batch_size": 2, "extra": {"stream_batch_size": 1}}


def train_by_two(folder: Path, options: dict, names: list[str], edges: list[str], repairs: list[str]) -> None:
    """Train methods in the usual shape and at the edges where a process lacks rows.

    Args:
        folder: Where it is written.
        options: The usual shape.
        names: Trainings in it.
        edges: Trainings at the edges.
        repairs: Names in `REALIGNED`.
    """
    for name in names:
        method, settings = cut_and_shared()[name]
        made = trainer(methods()[method].cls(**settings), tempfile.mkdtemp(), **options)
        with Counted(made.model) as counted:
            made.train()
        done = finished(made)
        flat = torch.cat([weight.reshape(-1) for weight in done.weights.values()])
        everywhere = [torch.zeros_like(flat) for _ in range(distributed.get_world_size())]
        distributed.all_gather(everywhere, flat)
        sizes: list[int] = [0] * distributed.get_world_size()
        distributed.all_gather_object(sizes, made.accelerator.num_processes)
        passes = torch.tensor([counted.forward, counted.backward])
        distributed.all_reduce(passes)
        if distributed.get_rank() == 0:
            report = {
                "world_sizes": sizes,
                "rank_spread": max(float((other - flat).abs().max()) for other in everywhere),
                "logs": done.logs,
                "passes": passes.tolist(),
            }
            if made.row_weights is not None:
                report["row_times"] = made.row_weights.times.tolist()
                report["row_sums"] = made.row_weights.sums.tolist()
            (folder / f"{name}.json").write_text(json.dumps(report))
            save_file({n: w.contiguous() for n, w in done.weights.items()}, folder / f"{name}.safetensors")
    realigned(folder, repairs)
    filled_up(folder, edges)
    lopsided(folder, edges)


def realigned(folder: Path, names: list[str]) -> None:
    """Realign with defenses inside, and with a rate that is searched for, one after the other."""
    for name in names:
        model = adapted(tiny.model())
        repaired = realign(model, REALIGNED[name])
        flat = torch.cat([weight.reshape(-1) for weight in stored(model).values()])
        everywhere = [torch.zeros_like(flat) for _ in range(distributed.get_world_size())]
        distributed.all_gather(everywhere, flat)
        if distributed.get_rank() == 0:
            report = {
                "rank_spread": max(float((other - flat).abs().max()) for other in everywhere),
                "rows_trained": repaired.rows_trained,
                "chosen": None if repaired.dose_curve is None else repaired.dose_curve.chosen,
            }
            (folder / f"realign-{name}.json").write_text(json.dumps(report))
            save_file({n: w.contiguous() for n, w in stored(model).items()}, folder / f"realign-{name}.safetensors")


def realign(model: Any, settings: dict[str, Any]) -> Repaired:
    # All different, and whole steps of them also beside those that a search keeps aside.
    safe = [tiny.row(f"how do i make {'the ' * i}tea", "no i cannot" if i % 2 else "take the tea") for i in range(40)]
    rows = {"safe": safe, "harmful": tiny.rows("harmful", 16), "user": tiny.rows("user", 8)}
    repair = mi.Realign(step_rows=8, epochs=2, **settings)
    return repair.repair(model, tiny.tokenizer(), refusals=tiny.REFUSALS, **rows)


def filled_up(folder: Path, names: list[str]) -> None:
    """The last batch of each epoch has one row, of the first process; the second process has repetitions only."""
    for name in names:
        method, settings = cut_and_shared()[name]
        made = trainer(
            methods()[method].cls(**settings), tempfile.mkdtemp(), **FILLED_UP, per_device_train_batch_size=2
        )
        made.train()
        if distributed.get_rank() == 0:
            done = finished(made)
            times = [] if made.row_weights is None else made.row_weights.times.tolist()
            (folder / f"{name}-filled-up.json").write_text(json.dumps({"times": times, "logs": done.logs}))
            save_file({n: w.contiguous() for n, w in done.weights.items()}, folder / f"{name}-filled-up.safetensors")


def lopsided(folder: Path, names: list[str]) -> None:
    """A stream's batch of a single row, which leaves the second process without any."""
    for name in names:
        method, settings = cut_and_shared()[name]
        if "harmful" in methods()[method].streams:
            made = trainer(methods()[method].cls(**settings), tempfile.mkdtemp(), **LOPSIDED)
            made.train()
            if distributed.get_rank() == 0:
                done = finished(made)
                save_file({n: w.contiguous() for n, w in done.weights.items()}, folder / f"{name}-lopsided.safetensors")
