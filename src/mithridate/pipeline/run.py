"""A whole run: from a recipe to models, manifests, results and a report."""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mithridate.errors import UsageError
from mithridate.pipeline.inputs import Inputs
from mithridate.pipeline.manifest import recipe_hash, versions, write_manifest
from mithridate.pipeline.models import load, load_served, save_merged
from mithridate.pipeline.plan import Chain, Plan
from mithridate.pipeline.reading import make_recipe, read_recipe
from mithridate.pipeline.recipe import Recipe
from mithridate.pipeline.scheduler import Monitor, Silent, quiet_libraries, run_all, where_is
from mithridate.pipeline.shown import book
from mithridate.pipeline.stages import DISPLACEMENT, ROW_WEIGHTS
from mithridate.pipeline.store import Store, plain_disk_errors
from mithridate.pipeline.summary import summarize
from mithridate.report.answers import Book, write_answers
from mithridate.report.results import Results
from mithridate.training.state import write_json


def run(
    recipe: str | Path | dict[str, Any] | Recipe,
    out: str | Path | None = None,
    *,
    overrides: list[str] | None = None,
    jobs: int = 1,
    command: str | None = None,
    monitor: Monitor | None = None,
) -> Results:
    """Run a recipe: align, attack, tune, repair, measure, report.

    Stages that are already in ``out/store`` are not done again, and an interrupted one goes on at its last
    checkpoint, so running the same command again is always right.

    Args:
        recipe: A file, a tree of settings, or a checked recipe.
        out: Folder of the results; ``runs/<name>`` by default.
        overrides: ``a.b=value`` settings, for a file.
        jobs: Stages run at the same time, each in a process of its own.
        command: The command to show in the report.
        monitor: Told how far the run is.

    Returns:
        The results, also written to ``out/results.json`` and ``out/report.html``; all answers are in
        ``out/answers.html`` and ``out/answers.json``.

    Raises:
        RecipeError: If the recipe has a fault.
        MithridateError: If a stage fails; what is finished stays in the store.
    """
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
        run_all(store, plan.nodes, jobs, checked.threads, monitor or Silent())
        tree = checked.model_dump(mode="json")
        facts = {
            "name": checked.name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": command or f"mithridate.run({str(recipe)!r})" if isinstance(recipe, (str, Path)) else command,
            "versions": versions(),
            "hashes": {"recipe": recipe_hash(tree), "inputs": inputs.hashes()},
            "recipe": tree,
            "seeds": checked.seeds,
        }
        results = summarize(checked, plan.chains, store, facts | {"answers": "answers.html"})
        for chain in plan.chains:
            _release(chain, checked, store, folder, facts)
        _write(results, book(store, plan.chains, results), folder)
    return results


def _checked(recipe: str | Path | dict[str, Any] | Recipe, overrides: list[str]) -> Recipe:
    if overrides and not isinstance(recipe, (str, Path)):
        raise UsageError("overrides reach into a recipe file only; change the settings that are given instead")
    if isinstance(recipe, Recipe):
        return recipe
    return make_recipe(recipe) if isinstance(recipe, dict) else read_recipe(recipe, overrides)


def folder_of(chain: Chain) -> str:
    """Folder of one variant at one seed, below the run's folder."""
    return f"variants/{chain.variant.name}/seed-{chain.seed}"


def _release(chain: Chain, recipe: Recipe, store: Store, folder: Path, facts: dict[str, Any]) -> None:
    """Write a variant's folder: model, manifest, row weights, displacement. It appears whole or not at all."""
    target = folder / folder_of(chain)
    part = target.with_name(target.name + ".part")
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(parents=True)
    where = where_is(store, chain.nodes, chain.nodes[0].spec["model"])
    tokenizer = load_served(where, recipe.template)
    if recipe.save == "merged":
        save_merged(load(where, recipe.precision), tokenizer, part)
    elif recipe.save == "adapter" and where.adapter is not None:
        shutil.copytree(where.adapter, part, dirs_exist_ok=True)
        tokenizer.save_pretrained(part)
    for node in chain.nodes:
        for name in (ROW_WEIGHTS, DISPLACEMENT):
            made = store.path(node.stage, node.key) / name
            if made.is_file():
                shutil.copy(made, part / name)
    stages = [
        {"stage": node.stage, "key": node.key, "defense": node.spec.get("defense")} | _record(store, node)
        for node in chain.nodes
        if node.stage != "evaluation"
    ]
    write_manifest(
        part,
        facts
        | {
            "variant": chain.variant.model_dump(mode="json"),
            "seed": chain.seed,
            "world_size": 1,
            "base": where.base,
            "stages": stages,
        },
    )
    if target.exists():
        shutil.rmtree(target)
    part.rename(target)


def _record(store: Store, node: Any) -> dict[str, Any]:
    found = store.result(node.stage, node.key) or {}
    return {name: found[name] for name in ("cost", "activity", "dropped_rows") if name in found}


def _write(results: Results, answers: Book, folder: Path) -> None:
    from mithridate.report import write_report

    tree = results.model_dump(mode="json")
    write_json(folder / "results.json", tree)
    write_json(folder / "answers.json", answers.model_dump(mode="json", exclude_none=True))
    write_answers(answers, folder / "answers.html")
    write_report(tree, folder / "report.html")
