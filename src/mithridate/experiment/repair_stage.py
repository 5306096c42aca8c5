"""Does the post-tuning stage: repairs a finished model and records what changed."""

from pathlib import Path
from typing import Any

from mithridate.errors import DefenseError
from mithridate.experiment.jobs import RepairJob
from mithridate.experiment.meter import Meter
from mithridate.experiment.row_files import stored_rows, stored_texts
from mithridate.experiment.stage_folder import DISPLACEMENT, save_model
from mithridate.experiment.stage_records import RepairRecord
from mithridate.experiment.step_figures import Progress
from mithridate.models.loading import Where, load, load_tokenizer
from mithridate.repair.post_tuning import Repair


def repair(job: RepairJob, where: Where, folder: Path, progress: Progress, aligned: Where) -> RepairRecord:
    """Repair a model.

    Args:
        job: What to do.
        where: The model to repair.
        folder: Folder to fill.
        progress: Called when it is done.
        aligned: The model after the alignment stage, for defenses that compare with it.

    Raises:
        DefenseError: If the defense cannot act or changes no weight.
    """
    defense = job.defense.build("posttuning")
    assert isinstance(defense, Repair)
    # As the other stages have it, unless the defense is given a length of its own.
    if "max_length" not in (job.defense.model_extra or {}):
        defense = defense.model_copy(update={"max_length": job.max_length})
    tokenizer = load_tokenizer(where.base, job.template)
    model = load(where, job.precision)
    # The model as it came, and as alignment left it: not what an earlier repair of the same variant has changed.
    origins = {"base": Where(job.model, None), "aligned": aligned}
    references: dict[str, Any] = {name: load(origins[name], job.precision) for name in defense.info.references}
    rows = _rows(job)
    # Loading is left out of the cost: it is the machine's, not the defense's.
    with Meter() as meter:
        repaired = defense.repair(model, tokenizer, **rows, **references)
    # A repair that does nothing would be reported as one that does not help. At the settings that switch the defense
    # off, nothing is what was asked for.
    if repaired.changed == 0 and job.defense.model_dump() != {"method": job.method} | defense.info.off:
        raise DefenseError(f"{job.method} changed no weight; raise its strength")
    if repaired.displacement is not None:
        repaired.displacement.save(folder / DISPLACEMENT)
    save_model(model, tokenizer, folder, merge=repaired.merged)
    progress(1, 1)
    return RepairRecord(
        cost=meter.cost(defense.passes, repaired.rows_trained),
        changed=repaired.changed,
        distance=repaired.distance,
        activity={**repaired.activity, "changed": repaired.changed, "distance": repaired.distance},
        dose_curve=repaired.dose_curve,
        layer_profile=repaired.layer_profile,
    )


def _rows(job: RepairJob) -> dict[str, Any]:
    """Return the streams that the defense measures or trains on, by the names of its arguments."""
    # Held-out rows, never those trained on, stand for the user.
    streams = {"safe": job.provider.safe, "harmful": job.provider.harmful, "user": job.held_out}
    given: dict[str, Any] = {name: stored_rows(stored) for name, stored in streams.items() if stored is not None}
    if job.provider.refusals is not None:
        given["refusals"] = stored_texts(job.provider.refusals)
    return given
