"""How far `mithridate plan` is off: the planned work of each stage, as a ratio to SFT's, against measured time.

    python -m benchmarks.plan_error recipes/methods.yaml --out docs/results/plan_error.json

Processor time of the stages' own code on this machine. A training is timed over a few optimizer steps beside as many of
SFT on the same rows, and both are taken from the middle of a run, since the first steps make buffers.
"""

import hashlib
import statistics
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import report, rounded
from mithridate.errors import DefenseError
from mithridate.experiment.evaluation_stage import evaluate
from mithridate.experiment.inputs import Inputs
from mithridate.experiment.jobs import EvaluationJob, Job, ProviderRows, RepairJob, StageNode, StoredRows, TrainingJob
from mithridate.experiment.plan import Plan
from mithridate.experiment.recipe import Choice
from mithridate.experiment.recipe_file import read_recipe
from mithridate.experiment.repair_stage import repair
from mithridate.experiment.stage_folder import where_is
from mithridate.experiment.training_stage import train
from mithridate.experiment.workers import quiet_libraries
from mithridate.models.loading import Where
from mithridate.planning.plan_records import PlannedStage
from mithridate.planning.recipe_plan import plan

ROWS = 160
"""Rows of each stream of a training that is timed, drawn evenly from all."""
SKIPPED = 2
"""Steps at the start of a training that are not timed."""


def thinned(job: TrainingJob) -> TrainingJob:
    """The same training on fewer rows of the same lengths, since tokenizing all takes longer than a few steps."""
    provider = {name: None if rows is None else _some(rows) for name, rows in job.provider}
    return job.model_copy(update={"rows": _some(job.rows), "provider": ProviderRows(**provider)})


def _some(stored: StoredRows) -> StoredRows:
    lines = Path(stored.path).read_text(encoding="utf-8").split("\n")[:-1]
    kept = [lines[number * len(lines) // ROWS] for number in range(ROWS)] if len(lines) > ROWS else lines
    content = "".join(f"{line}\n" for line in kept).encode()
    path = Path(stored.path).with_suffix(".some.jsonl")
    path.write_bytes(content)
    return StoredRows(path=str(path), sha256=hashlib.sha256(content).hexdigest())


def step_seconds(job: Job, steps: int) -> float:
    """Mean processor time of an optimizer step."""
    assert isinstance(job, TrainingJob)
    job = thinned(job)
    epochs = (steps + SKIPPED) * job.training.batch_size / ROWS
    short = job.model_copy(update={"training": job.training.model_copy(update={"epochs": epochs, "save_steps": 10**6})})
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        train(short, Where(job.model, None), Path(folder), lambda done, total: times.append(time.process_time()))
    return (times[-1] - times[SKIPPED - 1]) / (len(times) - SKIPPED)


def whole_seconds(job: Job, tuned: Path) -> float:
    """Processor time of a repair or an evaluation of a tuned model."""
    where, aligned = where_is(job.model, [tuned]), Where(job.model, None)
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        if isinstance(job, RepairJob):
            repair(job, where, Path(folder), lambda done, total: None, aligned)
        else:
            assert isinstance(job, EvaluationJob)
            evaluate(job, where, Path(folder), lambda done, total: None, aligned)
        return time.process_time() - start


def ratios(
    node: StageNode, planned: dict[str, PlannedStage], sft: dict[str, StageNode], options: Namespace, tuned: Path
) -> dict[str, Any]:
    """Planned and measured ratio to SFT: of a step to a step, or of a whole stage to a step of fine-tuning."""
    job, told = node.job, planned[node.key]
    if isinstance(job, TrainingJob):
        plain = sft[job.stage]
        expected = told.flops.high / told.steps / (planned[plain.key].flops.high / planned[plain.key].steps)
        found = [
            step_seconds(job, options.steps) / step_seconds(plain.job, options.steps) for _ in range(options.repeats)
        ]
        span = (expected, expected)
    else:
        plain = sft["finetuning"]
        unit = planned[plain.key].flops.high / planned[plain.key].steps
        span = (told.flops.low / unit, told.flops.high / unit)
        found = [whole_seconds(job, tuned) / step_seconds(plain.job, options.steps) for _ in range(options.repeats)]
    measured = statistics.median(found)
    nearest = min(max(measured, span[0]), span[1])
    return {
        "stage": job.stage,
        "method": job.method,
        "planned": [rounded(span[0]), rounded(span[1])],
        "measured": rounded(measured),
        "error": rounded(nearest / measured - 1),
        "repeats": [rounded(one) for one in found],
    }


def _compared(
    node: StageNode, planned: dict[str, PlannedStage], sft: dict[str, StageNode], options: Namespace, tuned: Path
) -> dict[str, Any]:
    """Ratios of a stage, or why it refuses to act: the tuned model was never aligned, and a search may find no dose."""
    try:
        return ratios(node, planned, sft, options, tuned)
    except DefenseError as error:
        return {"stage": node.stage, "method": node.job.method, "refused": str(error)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Plan, measure, and print JSON."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps that are timed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", nargs="+", help="methods; all of the recipe by default")
    parser.add_argument("--out", type=Path, help="file for the JSON, beside standard output")
    options = parser.parse_args(arguments)
    quiet_libraries()
    torch.set_num_threads(1)
    recipe = read_recipe(options.recipe)
    recipe = recipe.model_copy(update={"seeds": recipe.seeds[:1]})
    planned = {stage.label: stage for stage in plan(recipe).stages}
    with tempfile.TemporaryDirectory() as folder:
        stages = Plan(recipe, Inputs(recipe, options.recipe.parent, Path(folder)))
        by_key = {node.key: planned[node.label] for node in stages.nodes.values()}
        sft: dict[str, StageNode] = {
            n.stage: n for n in stages.nodes.values() if isinstance(n.job, TrainingJob) and n.job.method == "sft"
        }
        kinds: dict[tuple[str, str], StageNode] = {}
        for node in stages.nodes.values():
            kinds.setdefault((node.stage, node.job.method), node)
        tuned = Path(folder) / "tuned"
        plain = sft["finetuning"].job
        assert isinstance(plain, TrainingJob)
        train(
            plain.model_copy(update={"defense": Choice(method="sft")}),
            Where(plain.model, None),
            tuned,
            lambda done, total: None,
        )
        figures = []
        for (_, method), node in kinds.items():
            if options.methods is None or method in options.methods:
                figures.append(_compared(node, by_key, sft, options, tuned))
                print(figures[-1], flush=True)
    report("plan_error", options, "cpu", figures)


if __name__ == "__main__":
    main()
