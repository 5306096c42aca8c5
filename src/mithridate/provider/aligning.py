"""Makes the provider's aligned model, once for all uploads."""

import shutil
from pathlib import Path
from typing import Any

from mithridate.errors import UsageError
from mithridate.experiment.disk import plain_disk_errors
from mithridate.experiment.identity import model_identity
from mithridate.experiment.launch import check_launch
from mithridate.experiment.manifest import versions, write_manifest
from mithridate.experiment.monitor import Monitor
from mithridate.experiment.stage_folder import MODEL
from mithridate.experiment.stage_records import TrainingRecord
from mithridate.experiment.store import Store
from mithridate.experiment.workers import quiet_libraries
from mithridate.models.loading import locate
from mithridate.provider.policy_file import opened
from mithridate.provider.policy_jobs import PolicyJobs
from mithridate.provider.policy_rows import PolicyRows
from mithridate.provider.policy_tree import Policy
from mithridate.provider.stage_work import done
from mithridate.training.processes import refuse_launcher


def align(
    model: str,
    policy: str | Path | dict[str, Any] | Policy | None = None,
    *,
    out: str | Path,
    launch: int = 1,
    monitor: Monitor | None = None,
) -> Path:
    """Align a model by a policy; interrupted at any point, the same call goes on.

    Args:
        model: The base model: a folder, hub id or ``miniature:base``.
        policy: A policy, its file or its tree of settings; the default one for the miniature.
        out: Folder of the aligned model. Its stages lie beside it in ``<out>.work``.
        launch: Processes that share the training; the model is that of one process up to rounding.
        monitor: Receives the progress.

    Returns:
        The folder.

    Raises:
        UsageError: If ``out`` exists, or so many processes cannot share the training.
        DefenseError: If the policy's defense cannot act.
    """
    refuse_launcher("a model is aligned", "with --launch N")
    checked, base = opened(policy)
    check_launch(launch, [checked.alignment.training])
    folder, quiet = Path(out), monitor or Monitor()
    if folder.exists():
        raise UsageError(f"{folder} exists; give another --out, nothing is overwritten")
    store = Store(folder.with_name(folder.name + ".work"))
    quiet_libraries()
    with store.locked(), plain_disk_errors(folder):
        jobs = PolicyJobs(checked, PolicyRows(checked, base, store.folder / "inputs"), locate(model, tokenizer=True))
        aligned = jobs.node([], jobs.alignment(), f"alignment · {checked.alignment.defense.method}")
        written = jobs.node([aligned], jobs.candidate(), "aligned model")
        quiet.planned([aligned, written], 1)
        done(store, aligned, [], quiet, launch)
        done(store, written, [aligned], quiet)
        part = folder.with_name(folder.name + ".part")
        if part.exists():  # left by a kill at this point
            shutil.rmtree(part)
        shutil.copytree(store.path(written) / MODEL, part)
        facts = {
            "policy": checked.model_dump(mode="json"),
            "model": model_identity(jobs.model),
            "world_size": store.record(aligned, TrainingRecord).processes,
            **_merging(store.record(aligned, TrainingRecord)),
            "versions": versions(),
        }
        write_manifest(part, facts)
        part.rename(folder)
    return folder


def _merging(record: TrainingRecord) -> dict[str, Any]:
    """Return what a manifest says about merging an adapter that was trained on a quantized base."""
    return {} if record.merging is None else {"merging": record.merging}
