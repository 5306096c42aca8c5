"""Repairs a checkpoint on disk without loading it: weights are read, changed and written one after the other."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from mithridate.errors import CheckpointError, DefenseError, ModelError, UsageError
from mithridate.experiment.disk import plain_disk_errors
from mithridate.experiment.manifest import MANIFEST, versions
from mithridate.experiment.stage_folder import DISPLACEMENT
from mithridate.files import file_hash, write_json
from mithridate.models.checkpoint_folder import open_checkpoint
from mithridate.models.empty_models import empty_model
from mithridate.models.loading import Where, load_tokenizer, where_named
from mithridate.models.stored_weights import StoredWeights
from mithridate.models.tokenization import Rows
from mithridate.repair.output_journal import Journal
from mithridate.repair.post_tuning import Repair
from mithridate.repair.repaired import Repaired
from mithridate.repair.shard_output import Progress, ShardOutput
from mithridate.repair.stored_inputs import StoredInputs, StoredModel

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
    out = Path(out)
    named = {"model": model, "aligned": aligned, "base": base}
    places = {role: where_named(str(name)) for role, name in named.items() if name is not None}
    models = {role: _opened(where) for role, where in places.items()}
    _refuse_taken(out, [one.weights.checkpoint.folder for one in models.values()])
    streams = {"harmful": harmful, "user": user, "safe": safe}
    rows = {name: None if given is None else list(given) for name, given in streams.items()}
    tokenizer = load_tokenizer(places["model"].base, template) if any(rows.values()) or template else None
    tuned = models["model"].weights
    identity = {
        "method": defense.info.name,
        "settings": defense.model_dump(mode="json"),
        "models": {role: [*places[role], one.weights.checkpoint.print_of()] for role, one in models.items()},
        "adapters": {role: _adapter_print(where) for role, where in places.items()},
        "rows": {name: _rows_print(given) for name, given in rows.items()},
        "template": template,
        "versions": versions(),
    }
    partial = out.parent / f".{out.name}.partial"
    with plain_disk_errors(out, kept="finished files"), _alone(partial):
        journal = Journal(partial, identity)
        inputs = StoredInputs(
            type(defense).__name__,
            models["model"],
            tokenizer,
            defense.max_length,
            rows,
            {role: models.get(role) for role in ("aligned", "base")},
            partial / WORK,
        )
        with ShardOutput(partial, tuned, journal, progress or _silent) as output:
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
        if tokenizer is not None and template is not None:
            tokenizer.save_pretrained(partial)
        manifest = {
            "model": str(model),
            "method": defense.info.name,
            "settings": defense.model_dump(mode="json"),
            "references": {role: None if named[role] is None else str(named[role]) for role in ("aligned", "base")},
            "dtype": str(models["model"].dtype).removeprefix("torch."),
            "by_shard": True,
            "versions": versions(),
            "repaired": repaired.model_dump(mode="json"),
        } | dict(record or {})
        _finish(partial, out, journal, manifest, hashes)
    return CheckpointRepair(repaired, manifest)


def _require_able(defense: Repair) -> None:
    name = type(defense).__name__
    if not defense.by_shard:
        raise UsageError(f"{name} needs the whole model in memory; repair without --by-shard")
    if defense.dose is not None and getattr(defense, defense.dose) == "auto":
        raise UsageError(
            f"a search for {defense.dose} would read every file once per dose; give {name} a number, such as the one "
            "that a search on a smaller model of the family finds"
        )


def _opened(where: Where) -> StoredModel:
    checkpoint = open_checkpoint(where.base)
    empty = empty_model(where, checkpoint.folder)
    return StoredModel(StoredWeights(empty.model, checkpoint), empty.dtype)


def _refuse_taken(out: Path, folders: list[Path]) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty; give another folder for the output, nothing is overwritten")
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
            except (ModelError, DefenseError):
                # The same call would fail again, and what it began would stand in the way of any other.
                shutil.rmtree(partial, ignore_errors=True)
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


def _finish(partial: Path, out: Path, journal: Journal, manifest: dict[str, Any], hashes: Mapping[str, str]) -> None:
    """Complete the unfinished folder and give it its name."""
    shutil.rmtree(partial / WORK, ignore_errors=True)
    journal.remove()
    paths = [path for path in sorted(partial.rglob("*")) if path.is_file()]
    files = {str(path.relative_to(partial)): hashes.get(path.name) or file_hash(path) for path in paths}
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


def _adapter_print(where: Where) -> dict[str, str]:
    if where.adapter is None:
        return {}
    return {path.name: file_hash(path) for path in sorted(Path(where.adapter).glob("adapter_*")) if path.is_file()}


def _rows_print(rows: list[Mapping[str, Any]] | None) -> str | None:
    return None if rows is None else hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def _silent(done: int, total: int) -> None:
    """Show nothing."""
