"""Writes the folder of one variant at one seed: model, tokenizer and a manifest of what produced them."""

import shutil
from pathlib import Path
from typing import Any

from mithridate.experiment.jobs import StageNode
from mithridate.experiment.manifest import write_manifest
from mithridate.experiment.merging import stated_loss
from mithridate.experiment.plan import Chain, released_dtype
from mithridate.experiment.recipe import Recipe
from mithridate.experiment.stage_folder import DISPLACEMENT, ROW_WEIGHTS, where_is
from mithridate.experiment.stage_records import TrainingRecord
from mithridate.experiment.stage_summary import stage_record
from mithridate.experiment.store import Store
from mithridate.experiment.summary import folder_of
from mithridate.models.loading import load, load_served, save_merged


def release(chain: Chain, recipe: Recipe, store: Store, folder: Path, facts: dict[str, Any]) -> dict[str, Any] | None:
    """Write a variant's folder: model, manifest, row weights, displacement. It appears whole or not at all.

    Args:
        chain: The variant at one seed.
        recipe: The recipe.
        store: Where the stages are.
        folder: The run's folder.
        facts: What the manifest says about the run.

    Returns:
        What merging the adapter loses, where it was trained on a quantized base; None otherwise.
    """
    target = folder / folder_of(chain)
    part = target.with_name(target.name + ".part")
    # Left by a run that was killed here.
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(parents=True)
    job = chain.evaluation.job
    where = where_is(job.model, [store.path(node) for node in chain.nodes])
    tokenizer = load_served(where, recipe.template)
    loss: dict[str, Any] | None = None
    # Without an adapter, or behind a repair that merged it, all weights are what there is to save.
    if recipe.save == "merged" or (recipe.save == "adapter" and where.adapter is None):
        # Held as it was measured, but for a quantized base, and rounded to the released type only after merging.
        model = load(where, job.precision)
        if job.quantize != "none":
            loss = stated_loss(chain, store, model, job.quantize)
        save_merged(model, tokenizer, part, released_dtype(recipe, job.model))
    elif recipe.save == "adapter":
        assert where.adapter is not None
        shutil.copytree(where.adapter, part, dirs_exist_ok=True)
        tokenizer.save_pretrained(part)
    for node in chain.nodes:
        for name in (ROW_WEIGHTS, DISPLACEMENT):
            made = store.path(node) / name
            if made.is_file():
                shutil.copy(made, part / name)
    # Without the evaluation's stage, which changes no weight.
    stages = [_stage(store, node) for node in chain.nodes[:-1]]
    manifest = facts | {
        "variant": chain.variant.model_dump(mode="json"),
        "seed": chain.seed,
        "world_size": max((stage.get("processes", 1) for stage in stages), default=1),
        "base": where.base,
        "precision": job.precision,
        # Of the weights beside it: those of an adapter stand on such a base, merged ones do not.
        "quantize": job.quantize if recipe.save == "adapter" and where.adapter is not None else "none",
        "stages": stages,
    }
    if loss is not None:
        manifest["merging"] = loss
    # After every other file, since it holds their hashes.
    write_manifest(part, manifest)
    # The earlier folder goes only now that its successor is complete; a rename cannot replace a folder with files.
    withdraw(chain, folder)
    part.rename(target)
    return loss


def withdraw(chain: Chain, folder: Path) -> None:
    """Remove what an earlier call released for a variant at one seed, so that it is not mistaken for this call's.

    Args:
        chain: The variant at one seed.
        folder: The run's folder.
    """
    target = folder / folder_of(chain)
    if target.exists():
        shutil.rmtree(target)


def _stage(store: Store, node: StageNode) -> dict[str, Any]:
    """Return what a manifest says about a stage."""
    record, defense = stage_record(store, node), node.job.model_dump(mode="json")["defense"]
    shown: dict[str, Any] = {"cost": record.cost.model_dump(), "activity": record.activity}
    if isinstance(record, TrainingRecord):
        shown |= {"dropped_rows": record.dropped_rows, "processes": record.processes}
        shown |= {} if record.merging is None else {"merging": record.merging}
    return {"stage": node.stage, "key": node.key, "defense": defense} | shown
