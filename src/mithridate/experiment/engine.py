"""Runs a recipe: stages in the store, then models, manifests, results and a report."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mithridate.errors import UsageError
from mithridate.experiment.disk import plain_disk_errors
from mithridate.experiment.finished_run import FinishedRun, results_of
from mithridate.experiment.inputs import Inputs
from mithridate.experiment.jobs import TrainingJob
from mithridate.experiment.launch import check_launch
from mithridate.experiment.manifest import recipe_hash, versions
from mithridate.experiment.merging import sentence
from mithridate.experiment.monitor import Monitor
from mithridate.experiment.plan import Plan
from mithridate.experiment.recipe import Recipe
from mithridate.experiment.recipe_file import make_recipe, read_recipe
from mithridate.experiment.release import release, withdraw
from mithridate.experiment.samples import all_answers
from mithridate.experiment.scheduler import Scheduler
from mithridate.experiment.stage_pool import Placement, check_placement
from mithridate.experiment.store import Store
from mithridate.experiment.summary import folder_of
from mithridate.experiment.workers import quiet_libraries
from mithridate.files import write_json
from mithridate.report.answers import AllAnswers, write_answers
from mithridate.report.axis_results import AXES
from mithridate.report.results import Effort, Results
from mithridate.training.processes import refuse_launcher


def run(
    recipe: str | Path | dict[str, Any] | Recipe,
    out: str | Path | None = None,
    *,
    overrides: list[str] | None = None,
    jobs: int | None = None,
    launch: int = 1,
    engine: str = "local",
    ray_address: str | None = None,
    command: str | None = None,
    monitor: Monitor | None = None,
) -> Results:
    """Run a recipe: align, attack, tune, repair, measure, report; over its axes, where it has some.

    Stages that are already in ``out/store`` are not done again, and an interrupted one resumes from its last
    checkpoint, so it is always safe to run the same command again. If a defense cannot act, its variant is reported
    as failed, with the reason, and the others go on.

    Args:
        recipe: A file, a tree of settings, or a checked recipe.
        out: Folder of the results; ``runs/<name>`` by default.
        overrides: ``a.b=value`` settings, for a file.
        jobs: Stages to run at the same time; with more than one, each in a process of its own. By default one, or as
            many as a cluster takes.
        launch: Processes that share each training and each evaluation, on GPUs of their own where there are GPUs. The
            results are those of one process up to rounding.
        engine: ``local`` runs stages on this machine, ``ray`` on the nodes of a Ray cluster, which share ``out``.
        ray_address: Address of the cluster; by default what ``RAY_ADDRESS`` names, or the one on this machine.
        command: The command to show in the report.
        monitor: Receives the run's progress.

    Returns:
        The results, also written to ``out/results.json`` and ``out/report.html``; all answers are in
        ``out/answers.html`` and ``out/answers.json``. With axes, ``out/tables`` and ``out/plots`` hold them as files.

    Raises:
        RecipeError: If the recipe has a fault.
        UsageError: If so many processes cannot share the work, or the cluster cannot do it.
        DefenseError: If no variant at all could be measured at the recipe's setting.
        MithridateError: If a stage fails; what is finished stays in the store.
    """
    start = time.monotonic()
    placement = Placement(engine, jobs, launch, ray_address)
    check_placement(placement)
    refuse_launcher("a recipe runs", "with --launch N")
    base = Path(recipe).parent if isinstance(recipe, (str, Path)) else Path()
    checked = checked_recipe(recipe, overrides or [])
    folder = Path(out) if out is not None else Path("runs") / checked.name
    store = Store(folder / "store")
    quiet_libraries()
    # Locked before the inputs are written: they go into the store too.
    with store.locked(), plain_disk_errors(folder):
        inputs = Inputs(checked, base, store.folder / "inputs")
        plan = Plan(checked, inputs)
        work = [node.job for node in plan.nodes.values()]
        trainings = [job.training for job in work if isinstance(job, TrainingJob)]
        check_launch(launch, trainings, here=engine == "local")
        watching = monitor or Monitor()
        scheduler = Scheduler(plan, store, placement, checked.threads, watching)
        scheduler.run()
        finished = FinishedRun(checked, plan, store, scheduler.failed)
        facts = _facts(recipe, checked, inputs, command)
        measured = {(chain.variant.name, chain.seed) for chain in finished.at_base}
        for chain in plan.at_base:
            # Models of the recipe's own setting only; those along the axes stay in the store, or a sweep would write
            # a merged model for every cell.
            if (chain.variant.name, chain.seed) in measured:
                loss = release(chain, checked, store, folder, facts)
                if loss is not None:
                    watching.told(sentence(folder_of(chain), loss))
            else:
                withdraw(chain, folder)
        results = results_of(finished, facts)
        results.effort = Effort(
            seconds=time.monotonic() - start, stages=len(plan.nodes), made=scheduler.made, store_bytes=store.size()
        )
        _write(results, all_answers(store, finished.at_base, results), folder)
    return results


def checked_recipe(recipe: str | Path | dict[str, Any] | Recipe, overrides: list[str]) -> Recipe:
    """Return a recipe that was given as a file, a tree of settings or checked already.

    Raises:
        UsageError: If it has a fault, or overrides are given for something else than a file.
    """
    if overrides and not isinstance(recipe, (str, Path)):
        raise UsageError("overrides apply to a recipe file only; change the settings you pass instead")
    if isinstance(recipe, Recipe):
        return recipe
    return make_recipe(recipe) if isinstance(recipe, dict) else read_recipe(recipe, overrides)


def _facts(recipe: Any, checked: Recipe, inputs: Inputs, command: str | None) -> dict[str, Any]:
    """Return what results and manifests say about the run."""
    # The checked recipe, defaults filled in: a later release with other defaults must not change what this run was.
    tree = checked.model_dump(mode="json")
    named = isinstance(recipe, (str, Path))
    return {
        "name": checked.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        # A recipe given as a tree has no call that could be typed again.
        "command": command or f"mithridate.run({str(recipe)!r})" if named else command,
        "versions": versions(checked.evaluation.engine),
        "hashes": {"recipe": recipe_hash(tree), "inputs": inputs.hashes()},
        "recipe": tree,
        "seeds": checked.seeds,
    }


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
    """Remove the tables and plots that an earlier call with other axes wrote."""
    # By their names, never by emptying the folders, in which users may keep files of their own.
    kept = {*results.axes, *(("pareto", "claims") if results.axes else ())}
    for name in {*AXES, "pareto", "claims"} - kept:
        for stale in (*folder.glob(f"tables/{name}.*"), *folder.glob(f"plots/{name}.*")):
            stale.unlink()
