"""What a post-tuning stage costs."""

import math
from typing import NamedTuple

from mithridate.defenses.registry import method
from mithridate.experiment.jobs import RepairJob
from mithridate.planning.pass_work import PassWork
from mithridate.planning.plan_records import NOTHING, Span, exactly
from mithridate.planning.planned_training import PlannedCourse, Work, provider_rows, scored, trained
from mithridate.planning.planned_training import generated as answered
from mithridate.planning.row_tokens import RowLengths, RowTokens
from mithridate.repair.dose import REFINEMENTS
from mithridate.repair.post_tuning import CURVE_ROWS, KIND_ROWS, Repair
from mithridate.repair.refused_rows import OPENING
from mithridate.training.defense import Defense

DOSES = Span(2, 12)
"""Doses that a search tries before it bisects: two at least, one within the budgets and one beyond; the grids of our
repairs have up to twelve."""
RATES = 4
"""Learning rates that a search tries, unless its own class says otherwise."""


class RepairWork(NamedTuple):
    """Work of a repair: fewest and most, with the tries of its search."""

    low: Work
    high: Work
    tries: Span
    steps: int = 0


def repair_work(job: RepairJob, repair: Repair, lengths: RowLengths, work: PassWork) -> RepairWork:
    """Return the work of a repair; loading, and reading and writing the weights themselves, is left out."""
    rows = provider_rows(job.provider, lengths)
    if job.held_out is not None:
        rows["user"] = lengths.of(job.held_out)
    if repair.trains_with is not None:
        return _realigned(job, repair, rows, lengths, work)
    once = Work()
    # Over the first stream that it needs: a repair measures on one set of rows.
    for name in repair.streams[:1]:
        own = _first(rows[name], math.inf if repair.most_rows is None else repair.most_rows)
        forward = scored(own, repair.batch_size, work)
        backward = forward.flops / work.forward.linear * work.backward.linear
        flops = repair.passes.forward * forward.flops + repair.passes.backward * backward
        flops += sum(repair.layer_work(outputs, inputs, forward.tokens) for outputs, inputs in work.linears)
        once = Work(tokens=repair.passes.forward * forward.tokens, flops=flops)
    if not repair.searches:
        return RepairWork(once, once, NOTHING)
    tries = Span(DOSES.low + REFINEMENTS, DOSES.high + REFINEMENTS)
    fewest, most = _tried(rows, repair.batch_size, work)
    # Measured once more before the search, at no dose.
    return RepairWork(once.plus(fewest.times(tries.low + 1)), once.plus(most.times(tries.high + 1)), tries)


def _tried(rows: dict[str, RowTokens], batch: int, work: PassWork) -> tuple[Work, Work]:
    """Return the work of measuring one dose: without asking the model, and with an opening to every safe prompt."""
    most = {"user": math.inf, "harmful": CURVE_ROWS, "safe": 2 * KIND_ROWS}
    fewest = Work()
    for name, lengths in rows.items():
        fewest = fewest.plus(scored(_first(lengths, most[name]), batch, work))
    if "safe" not in rows:
        return fewest, fewest
    safe = _first(rows["safe"], KIND_ROWS)
    asked = safe._replace(whole=safe.prompts)
    return fewest, fewest.plus(answered(asked, OPENING, batch, work))


def _first(lengths: RowTokens, most: float) -> RowTokens:
    """Return lengths of no more than so many rows; which ones does not matter for the mean."""
    return lengths._replace(rows=int(min(lengths.rows, most)))


def _realigned(
    job: RepairJob, repair: Repair, rows: dict[str, RowTokens], lengths: RowLengths, work: PassWork
) -> RepairWork:
    """Return the work of a repair that trains, once or at several learning rates."""
    settings = repair.model_dump()
    defense = method(str(repair.trains_with), "alignment").cls(**settings.get("settings", {}))
    assert isinstance(defense, Defense)
    safe, batch = rows["safe"], int(settings.get("step_rows", 16))
    wanted = settings.get("rows")
    count = wanted if isinstance(wanted, int) else safe.rows
    an_epoch = math.ceil(count / batch)
    steps = max(1, math.ceil(float(settings.get("epochs", 1.0)) * an_epoch))
    course = PlannedCourse(steps, steps / max(1, an_epoch) * count, batch, batch)
    refusal = lengths.refusal(job.provider.refusals)
    once = trained(course, defense.passes_over("safe"), rows, refusal, job.max_length, work)
    if not repair.searches:
        return RepairWork(once, once, NOTHING, steps)
    fewest, most = _tried(rows, repair.batch_size, work)
    low, high = (once.plus(tried).times(RATES).plus(tried) for tried in (fewest, most))
    return RepairWork(low, high, exactly(RATES), steps)
