"""A whole run: from a recipe to models, manifests, results and a report."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from mithridate.errors import DefenseError, UsageError
from mithridate.experiment.cells import evaluation, measured, points
from mithridate.experiment.disk import plain_disk_errors
from mithridate.experiment.inputs import Inputs
from mithridate.experiment.manifest import recipe_hash, versions
from mithridate.experiment.monitor import Monitor
from mithridate.experiment.plan import Chain, Plan
from mithridate.experiment.recipe import Recipe
from mithridate.experiment.recipe_file import make_recipe, read_recipe
from mithridate.experiment.release import release
from mithridate.experiment.samples import all_answers, escapes
from mithridate.experiment.scheduler import Scheduler
from mithridate.experiment.store import Store
from mithridate.experiment.summary import aligned_models, variant_result, versus
from mithridate.experiment.workers import quiet_libraries
from mithridate.files import write_json
from mithridate.report.answers import AllAnswers, write_answers
from mithridate.report.axis_results import AXES
from mithridate.report.claims import answer_claims
from mithridate.report.front import pareto_front
from mithridate.report.results import Effort, Failure, Results


def run(
    recipe: str | Path | dict[str, Any] | Recipe,
    out: str | Path | None = None,
    *,
    overrides: list[str] | None = None,
    jobs: int = 1,
    command: str | None = None,
    monitor: Monitor | None = None,
) -> Results:
    """Run a recipe: align, attack, tune, repair, measure, report; over its axes, where it has some.

    Stages that are already in ``out/store`` are not done again, and an interrupted one goes on at its last
    checkpoint, so running the same command again is always right. Where a defense cannot act, that variant is reported
    as such, with the reason, and the others go on.

    Args:
        recipe: A file, a tree of settings, or a checked recipe.
        out: Folder of the results; ``runs/<name>`` by default.
        overrides: ``a.b=value`` settings, for a file.
        jobs: Stages run at the same time, each in a process of its own.
        command: The command to show in the report.
        monitor: Told how far the run is.

    Returns:
        The results, also written to ``out/results.json`` and ``out/report.html``; all answers are in
        ``out/answers.html`` and ``out/answers.json``. With axes, ``out/tables`` and ``out/plots`` hold them as files.

    Raises:
        RecipeError: If the recipe has a fault.
        DefenseError: If no variant at all could be measured at the recipe's setting.
        MithridateError: If a stage fails; what is finished stays in the store.
    """
    start = time.monotonic()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "a recipe runs in one process, but WORLD_SIZE is above 1; start it without a launcher, or use "
            "DefendedTrainer with `accelerate launch`"
        )
    base = Path(recipe).parent if isinstance(recipe, (str, Path)) else Path()
    checked = _checked(recipe, overrides or [])
    folder = Path(out) if out is not None else Path("runs") / checked.name
    store = Store(folder / "store")
    quiet_libraries()
    with store.locked(), plain_disk_errors(folder):
        inputs = Inputs(checked, base, store.folder / "inputs")
        plan = Plan(checked, inputs)
        scheduler = Scheduler(plan, store, jobs, checked.threads, monitor or Monitor())
        scheduler.run()
        finished = _Finished(checked, plan, store, scheduler)
        facts = _facts(recipe, checked, inputs, command)
        for chain in finished.at_base:
            release(chain, checked, store, folder, facts)
        results = _results(finished, facts)
        results.effort = Effort(
            seconds=time.monotonic() - start, stages=len(plan.nodes), made=scheduler.made, store_bytes=store.size()
        )
        _write(results, all_answers(store, finished.at_base, results), folder)
    return results


def _checked(recipe: str | Path | dict[str, Any] | Recipe, overrides: list[str]) -> Recipe:
    if overrides and not isinstance(recipe, (str, Path)):
        raise UsageError("overrides reach into a recipe file only; change the settings that are given instead")
    if isinstance(recipe, Recipe):
        return recipe
    return make_recipe(recipe) if isinstance(recipe, dict) else read_recipe(recipe, overrides)


def _facts(recipe: Any, checked: Recipe, inputs: Inputs, command: str | None) -> dict[str, Any]:
    """What results and manifests say of the run."""
    tree = checked.model_dump(mode="json")
    named = isinstance(recipe, (str, Path))
    return {
        "name": checked.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command or f"mithridate.run({str(recipe)!r})" if named else command,
        "versions": versions(),
        "hashes": {"recipe": recipe_hash(tree), "inputs": inputs.hashes()},
        "recipe": tree,
        "seeds": checked.seeds,
    }


class _Finished(NamedTuple):
    """A run whose stages are done."""

    recipe: Recipe
    plan: Plan
    store: Store
    scheduler: Scheduler

    def whole(self, chains: list[Chain]) -> list[Chain]:
        """The chains of which no stage failed."""
        failed = self.scheduler.failed
        return [chain for chain in chains if not any(node.key in failed for node in chain.needed)]

    @property
    def at_base(self) -> list[Chain]:
        """The chains at the recipe's setting that could be measured."""
        return self.whole(self.plan.at_base)

    def failures(self) -> list[Failure]:
        """Every chain of which a stage failed."""
        found = []
        for chain in self.plan.chains:
            causes = [self.scheduler.failed[node.key] for node in chain.needed if node.key in self.scheduler.failed]
            if causes:
                node, reason = causes[0]
                failure = Failure(
                    variant=chain.variant.name,
                    setting=chain.setting,
                    at_base=chain.setting == self.plan.base,
                    seed=chain.seed,
                    stage=node.stage,
                    method=node.job.method,
                    reason=reason,
                )
                found.append(failure)
        return found


def _results(finished: _Finished, facts: dict[str, Any]) -> Results:
    recipe, plan, store, _ = finished
    at_base, failures = finished.at_base, finished.failures()
    groups = {variant.name: [c for c in at_base if c.variant.name == variant.name] for variant in recipe.variants}
    groups = {name: group for name, group in groups.items() if group}
    if not groups:
        raise DefenseError(f"no variant could be measured: {failures[0].variant}: {failures[0].reason}")
    first = evaluation(store, at_base[0])
    results = Results(
        **facts,
        answers="answers.html",
        judge=first.judge,
        majority=first.majority,
        variants=[variant_result(store, recipe, group) for group in groups.values()],
        aligned=aligned_models(store, at_base),
        failures=failures,
        base=plan.base,
        axes=recipe.axes.values(),
    )
    if recipe.reference in groups:
        _compare(results, store, groups, recipe.reference)
    if results.axes:
        results.cells = [measured(store, chain) for chain in finished.whole(plan.chains)]
        results.points = points(results.cells)
        results.front = pareto_front(results)
        results.claims = answer_claims(results)
    return results


def _compare(results: Results, store: Store, groups: dict[str, list[Chain]], reference: str) -> None:
    """Set every variant beside the reference."""
    for variant in results.variants:
        if variant.name != reference:
            variant.versus_reference = versus(store, groups[variant.name], groups[reference])
    found = escapes(store, groups, reference, results)
    if found is not None:
        results.escapes, results.stopped, results.stayed = found


def _write(results: Results, answers: AllAnswers, folder: Path) -> None:
    from mithridate.report import write_report
    from mithridate.report.axis_tables import write_tables
    from mithridate.report.figures.plot_files import write_plots

    write_json(folder / "results.json", results.model_dump(mode="json"))
    write_json(folder / "answers.json", answers.model_dump(mode="json", exclude_none=True))
    write_answers(answers, folder / "answers.html")
    write_report(results, folder / "report.html")
    _drop_stale(results, folder)
    if results.axes:
        write_tables(results, folder / "tables")
        write_plots(results, folder / "plots")


def _drop_stale(results: Results, folder: Path) -> None:
    """Remove tables and plots that an earlier call with other axes wrote."""
    kept = {*results.axes, *(("pareto", "claims") if results.axes else ())}
    for name in {*AXES, "pareto", "claims"} - kept:
        for stale in (*folder.glob(f"tables/{name}.*"), *folder.glob(f"plots/{name}.*")):
            stale.unlink()
