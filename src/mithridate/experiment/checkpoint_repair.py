"""Repairs a checkpoint on disk without loading it: weights are read, changed and written one after the other."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from mithridate.errors import CheckpointError, DataError, DefenseError, ModelError, UsageError
from mithridate.experiment.checkpoint_inputs import CheckpointInputs, checkpoint_inputs
from mithridate.experiment.disk import plain_disk_errors
from mithridate.experiment.manifest import MANIFEST, versions
from mithridate.experiment.stage_folder import DISPLACEMENT
from mithridate.files import file_hash, write_json
from mithridate.models.stored_weights import StoredWeights
from mithridate.models.tokenization import Rows
from mithridate.repair.output_journal import JOURNAL, Journal
from mithridate.repair.post_tuning import Repair
from mithridate.repair.repaired import Repaired
from mithridate.repair.shard_output import Progress, ShardOutput

LOCK = "lock"
WORK = "work"
"""In the folder of an unfinished output: held by the process that fills it, and activations that do not fit."""


class CheckpointRepair(NamedTuple):
    """A finished repair of a checkpoint.

    Attributes:
        repaired: What was changed.
        manifest: What the output's manifest says.
    """

    repaired: Repaired
    manifest: dict[str, Any]


def repair_checkpoint(
    defense: Repair,
    model: str | Path,
    out: str | Path,
    *,
    harmful: Rows | None = None,
    user: Rows | None = None,
    safe: Rows | None = None,
    aligned: str | Path | None = None,
    base: str | Path | None = None,
    template: str | None = None,
    progress: Progress | None = None,
    record: Mapping[str, Any] | None = None,
) -> CheckpointRepair:
    """Repair a checkpoint in safetensors that may be larger than memory, and write the result to another folder.

    The output is whole or not there. A call that was killed is resumed by the same call: finished files are kept if
    their hashes are right.

    Args:
        defense: The repair.
        model: Folder or hub id of the finished model, or folder of a LoRA adapter on its base.
        out: Folder to write, which must be empty or not there.
        harmful: The provider's harmful rows.
        user: Held-out rows of the user's own data.
        safe: The provider's safe rows.
        aligned: The model before fine-tuning, named like ``model``.
        base: The model before alignment, likewise.
        template: Chat template, where the tokenizer has none.
        progress: Called with the bytes that are done and the bytes there are.
        record: What the manifest is to say beside what it always says.

    Raises:
        UsageError: If the repair cannot act on a model on disk, or the output's folder cannot be used.
        ModelError: If a checkpoint is damaged, holds NaN or Inf, or does not fit the others.
        DefenseError: If rows or models it needs are not given, or it cannot act on this model.
        CheckpointError: If the beginnings of another repair are in the way.
    """
    _require_able(defense)
    # Resolved: a link or "." cannot take the place of the unfinished folder at the end.
    out = Path(out).resolve()
    named = {"model": model, "aligned": aligned, "base": base}
    given = checkpoint_inputs(named, {"harmful": harmful, "user": user, "safe": safe}, template)
    _refuse_taken(out, given.folders)
    partial = out.parent / f".{out.name}.partial"
    with plain_disk_errors(out, kept="finished files"), _alone(partial):
        journal = Journal(partial, given.identity(defense))
        repaired, hashes = _written(defense, given, partial, journal, progress or _silent)
        manifest = _manifest(defense, named, given, repaired) | dict(record or {})
        _finish(partial, out, manifest, hashes)
        journal.remove()
    return CheckpointRepair(repaired, manifest)


def _written(
    defense: Repair, given: CheckpointInputs, partial: Path, journal: Journal, progress: Progress
) -> tuple[Repaired, dict[str, str]]:
    """Repair into the unfinished folder, and return what was changed and the hashes of the files with weights.

    Raises:
        DefenseError: If nothing changes.
    """
    inputs, tuned = given.stored(defense, partial / WORK), given.tuned
    with ShardOutput(partial, tuned, journal, progress) as output:
        tuned.output = output
        repaired = defense.change_stored(inputs)
        if not repaired.changed:
            raise DefenseError(f"{type(defense).__name__} changes nothing at these settings; raise its strength")
        in_place = tuned.adapted and not repaired.merged
        hashes = {} if in_place else output.finish()
    if in_place:
        adapted: Any = inputs.model
        adapted.save_pretrained(partial)
    if repaired.displacement is not None:
        repaired.displacement.save(partial / DISPLACEMENT)
    _copy_others(tuned, partial, whole=not in_place)
    if given.tokenizer is not None and given.template is not None:
        given.tokenizer.save_pretrained(partial)
    return repaired, hashes


def _manifest(
    defense: Repair, named: Mapping[str, str | Path | None], given: CheckpointInputs, repaired: Repaired
) -> dict[str, Any]:
    return {
        "model": str(named["model"]),
        "method": defense.info.name,
        "settings": defense.model_dump(mode="json"),
        "references": {role: None if named[role] is None else str(named[role]) for role in ("aligned", "base")},
        "dtype": str(given.models["model"].dtype).removeprefix("torch."),
        "by_shard": True,
        "versions": versions(),
        "repaired": repaired.model_dump(mode="json"),
    }


def _require_able(defense: Repair) -> None:
    name = type(defense).__name__
    if not defense.by_shard:
        raise UsageError(f"{name} needs the whole model in memory; repair without --by-shard")
    if defense.dose is not None and getattr(defense, defense.dose) == "auto":
        raise UsageError(
            f"a search for {defense.dose} would read every file once per dose; give {name} a number, such as the one "
            "that a search on a smaller model of the family finds"
        )


def _refuse_taken(out: Path, folders: list[Path]) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty; give another folder for the output, nothing is overwritten")
    # Nor can a mounted volume be replaced by a folder of another file system.
    if out.is_mount():
        raise UsageError(f"{out} is a mount point; give a folder inside it for the output")
    for folder in folders:
        # A folder that grows inside a model's own would be copied into itself.
        if folder.resolve() in (out.resolve(), *out.resolve().parents):
            raise UsageError(f"{out} lies inside the model's folder {folder}; give another folder for the output")


@contextmanager
def _alone(partial: Path) -> Iterator[None]:
    """Refuse to fill a folder that another process fills, and delete it where nothing can come of it."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(partial.with_name(f"{partial.name}.{LOCK}"), timeout=0)
    try:
        with lock:
            try:
                yield
            except (ModelError, DefenseError, DataError):
                # The same call would fail again, and what it began would stand in the way of any other.
                shutil.rmtree(partial, ignore_errors=True)
                partial.with_name(partial.name + JOURNAL).unlink(missing_ok=True)
                raise
            finally:
                Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout as error:
        raise CheckpointError(f"another process is writing {partial}; wait for it, or give another folder") from error


def _copy_others(tuned: StoredWeights, partial: Path, whole: bool) -> None:
    """Copy tokenizer, settings and whatever else is no weight; an adapter's folder takes the tokenizer alone."""
    checkpoint = tuned.checkpoint
    for path in checkpoint.others:
        if path.name in (MANIFEST, "adapter_config.json") or (not whole and not _of_tokenizer(path)):
            continue
        target = partial / path
        target.parent.mkdir(parents=True, exist_ok=True)
        # What a hub's cache holds are links; the output holds files.
        shutil.copyfile(checkpoint.folder / path, target)


def _of_tokenizer(path: Path) -> bool:
    return path.name.startswith(("tokenizer", "special_tokens", "vocab", "merges", "chat_template", "added_tokens"))


def _finish(partial: Path, out: Path, manifest: dict[str, Any], hashes: Mapping[str, str]) -> None:
    """Complete the unfinished folder and give it its name."""
    shutil.rmtree(partial / WORK, ignore_errors=True)
    paths = [path for path in sorted(partial.rglob("*")) if path.is_file() and path != partial / MANIFEST]
    files = {path.relative_to(partial).as_posix(): hashes.get(path.name) or file_hash(path) for path in paths}
    write_json(partial / MANIFEST, manifest | {"files": files})
    partial.rename(out)
    _sync_folder(out.parent)


def _sync_folder(folder: Path) -> None:
    # The new name must reach the disk as well.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _silent(done: int, total: int) -> None:
    """Show nothing."""
