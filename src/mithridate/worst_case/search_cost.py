"""What a search still costs, told before it begins."""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from mithridate.experiment.jobs import TrainingJob
from mithridate.experiment.recipe import Recipe, Variant
from mithridate.experiment.stage_records import RepairRecord, TrainingRecord
from mithridate.experiment.store import Store
from mithridate.report.scores import ResultPart
from mithridate.report.text import seconds
from mithridate.settings import Passes
from mithridate.worst_case.search_space import Space, TrialSetting
from mithridate.worst_case.studies import STARTUP
from mithridate.worst_case.trial_recipe import trial_recipe
from mithridate.worst_case.trial_stages import Planned, TrialStages


class RowCost(ResultPart):
    """What is left to do for one row.

    Attributes:
        name: The row.
        finished: Trials that have a score already.
        left: Trials to make.
        trainings: Fine-tunings of one trial, fewest and most.
        stages: All stages of one trial, fewest and most.
        passes: Forward and backward passes of an optimizer step.
        seconds: Trainings and repairs of all its trials, estimated; None as long as the row's own were not timed.
    """

    name: str
    finished: int
    left: int
    trainings: tuple[int, int]
    stages: tuple[int, int]
    passes: Passes
    seconds: float | None


class SearchCost(ResultPart):
    """What is left to do for a search.

    Attributes:
        trials: Trials of each row that were asked for.
        first_stages: Stages before the first trial: alignment, and every row at the recipe's own setting.
        first_cached: How many of them are in the store.
        steps: Optimizer steps of one fine-tuning: fewest, mean if all are drawn equally often, and most.
        rows: What is left for each row.
    """

    trials: int
    first_stages: int
    first_cached: int
    steps: tuple[float, float, float]
    rows: list[RowCost]

    @property
    def lines(self) -> list[str]:
        """The cost in sentences."""
        low, middle, high = self.steps
        left = sum(row.left for row in self.rows)
        done = sum(row.finished for row in self.rows)
        return [
            f"before the trials: {self.first_stages} stages, {self.first_cached} of them in the store",
            f"trials: {len(self.rows)} rows × {self.trials}, {done} done, {left} to make",
            f"to make: {self._total('stages')} stages, {self._total('trainings')} of them fine-tunings of "
            f"{low:g} to {high:g} steps (mean {middle:g}); rows whose trials draw the same share fine-tunings",
            f"time: {self._time(left)}",
            f"which trials follow the first {STARTUP} depends on what these find, so how many of their stages are in "
            "the store already cannot be told",
        ]

    def _total(self, kind: str) -> str:
        least, most = (sum(row.left * getattr(row, kind)[end] for row in self.rows) for end in (0, 1))
        return f"{most:,}" if least == most else f"{least:,} to {most:,}"

    def _time(self, left: int) -> str:
        if not left:
            return "nothing is left to train"
        times = [row.seconds for row in self.rows if row.left]
        known = [time for time in times if time is not None]
        if len(known) < len(times):
            return "known once every row was measured at the recipe's setting"
        # Evaluations keep no record of their time.
        return f"trainings and repairs take about {seconds(sum(known))} with one job; evaluation comes on top"


class UploadSize(NamedTuple):
    """How large the upload of an attack is, over all its rounds."""

    rounds: int
    rows: int


def cost_of(
    recipe: Recipe,
    space: Space,
    own: Mapping[str, Planned],
    finished: Mapping[str, int],
    trials: int,
    uploads: Sequence[UploadSize],
    store: Store,
) -> SearchCost:
    """Return what a search still costs.

    Args:
        recipe: The recipe.
        space: What is searched.
        own: The stages of each row at the recipe's own setting.
        finished: Trials of each row that are done.
        trials: Trials of each row that are asked for.
        uploads: Size of the upload of every form of every attack.
        store: Where results are.
    """
    seeds = len(recipe.seeds)
    nodes = {key: node for planned in own.values() for key, node in planned.nodes.items()}
    variants = {variant.name: variant for variant in recipe.variants}
    rounds = [upload.rounds for upload in uploads]
    steps = _steps(recipe, space)
    # Rows of the mean trial, by which the time of a training is taken to grow.
    rows = mean(upload.rows for upload in uploads) / _trained_rows(recipe) * steps[1] * mean(space.ranges.batch_size)
    costs = []
    for name, planned in own.items():
        timed, left = _own_seconds(store, planned), max(0, trials - finished[name])
        after = len(variants[name].posttuning) + 1  # the repairs and the evaluation
        costs.append(
            RowCost(
                name=name,
                finished=finished[name],
                left=left,
                trainings=(seeds * min(rounds), seeds * max(rounds)),
                stages=(seeds * (min(rounds) + after), seeds * (max(rounds) + after)),
                passes=variants[name].finetuning.build("finetuning").passes,
                seconds=None if timed is None else left * seeds * (rows * timed.row + timed.repairs),
            )
        )
    cached = sum(store.has(node) for node in nodes.values())
    return SearchCost(trials=trials, first_stages=len(nodes), first_cached=cached, steps=steps, rows=costs)


def upload_sizes(recipe: Recipe, variant: Variant, space: Space, stages: TrialStages) -> list[UploadSize]:
    """Make the upload of every form of every attack at the first seed, which checks it, and return its size.

    Raises:
        UsageError: If an attack cannot make its upload of the recipe's rows.
    """
    found = []
    ranges = space.ranges
    for attack in space.attacks:
        for form in attack.forms():
            setting = TrialSetting(
                learning_rate=ranges.learning_rate[0],
                steps=None if ranges.steps is None else ranges.steps[0],
                epochs=None if ranges.epochs is None else ranges.epochs[0],
                batch_size=ranges.batch_size[0],
                rank=None if ranges.rank is None else ranges.rank[0],
                scheduler=ranges.scheduler[0],
                attack=attack.formed(form),
                release=None,
            )
            chain = stages.planned(trial_recipe(recipe, variant, setting)).chains[0]
            jobs = [
                node.job for node in chain.nodes if isinstance(node.job, TrainingJob) and node.stage == "finetuning"
            ]
            found.append(UploadSize(len(jobs), sum(_rows(job.rows.path) for job in jobs)))
    return found


def _steps(recipe: Recipe, space: Space) -> tuple[float, float, float]:
    ranges, rows = space.ranges, _trained_rows(recipe)
    if ranges.steps is not None:
        counts = [float(steps) for steps in ranges.steps]
    else:
        counts = [epochs * math.ceil(rows / batch) for epochs in ranges.epochs or () for batch in ranges.batch_size]
    return min(counts), mean(counts), max(counts)


def _trained_rows(recipe: Recipe) -> int:
    return recipe.streams.user.size - recipe.streams.user.held_out


class OwnSeconds(NamedTuple):
    """What a row took at the recipe's own setting: fine-tuning by the row of data, all repairs of one seed."""

    row: float
    repairs: float


def _own_seconds(store: Store, planned: Planned) -> OwnSeconds | None:
    """Return what a row took; None where a stage of it was not done."""
    tuned = rows = repaired = 0.0
    for node in planned.nodes.values():
        if node.stage in ("finetuning", "posttuning") and not store.has(node):
            return None
        if isinstance(node.job, TrainingJob) and node.stage == "finetuning":
            tuned += store.record(node, TrainingRecord).cost.seconds
            rows += node.job.training.epochs * _rows(node.job.rows.path)
        elif node.stage == "posttuning":
            repaired += store.record(node, RepairRecord).cost.seconds
    return OwnSeconds(tuned / rows, repaired / len(planned.chains))


# Uploads never change in place.
@cache
def _rows(path: str) -> int:
    with Path(path).open("rb") as file:
        return sum(1 for _ in file)
