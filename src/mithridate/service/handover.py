"""Hands a released model to an inference server: a folder whose bytes are those that were judged, and no other."""

import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock
from sqlalchemy import Row, select

from mithridate.errors import CheckpointError, UsageError
from mithridate.provider.hand_over import verify_release
from mithridate.provider.judged_files import compare_files
from mithridate.service.database.tables import JOBS, MODELS
from mithridate.service.released_models import model_folder
from mithridate.service.service_parts import ServiceParts

_ADAPTER = "adapter_config.json"


class ServedModel(NamedTuple):
    """A model that may be served.

    Attributes:
        name: Its name.
        folder: Its folder, which nobody may write.
    """

    name: str
    folder: Path


def resolve(parts: ServiceParts, name: str, target: Path, *, link: bool = False) -> ServedModel:
    """Return a folder with a released model's judged bytes, for an inference server to read.

    A folder that is there already is checked again, so that the same call stands before every start of the server.

    Args:
        parts: The service.
        name: The model's name.
        target: Folder in which each model gets one of its own.
        link: Whether its files are hard links; otherwise they are copied.

    Raises:
        UsageError: If there is no such released model, or its files cannot be linked.
        CheckpointError: If a file differs from what was judged, wherever it lies, or the model is an adapter.
    """
    row = _row(parts, name)
    folder = target / folder_name(name)
    target.mkdir(parents=True, exist_ok=True)
    with FileLock(target / ".lock"):  # several servers may start at the same time
        if not os.path.lexists(folder):
            source = model_folder(parts, row)
            _judged(source, row)
            _placed(source, folder, row, link)
        compare_files(folder, row.files, f"do not serve it; remove {folder} and resolve again")
        _seal(folder, row)
    return ServedModel(name, folder)


def folder_name(name: str) -> str:
    """Return the folder of a model; names hold colons, and those of base models slashes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip(".-") or "model"


def _row(parts: ServiceParts, name: str) -> Row[Any]:
    with parts.database.read() as connection:
        row = connection.execute(
            select(MODELS, JOBS.c.state, JOBS.c.fine_tuned_model)
            .join(JOBS, JOBS.c.id == MODELS.c.job_id)
            .where(MODELS.c.id == name)
        ).one_or_none()
    if row is None:
        raise UsageError(f"there is no released model '{name}'; its name stands in its job as fine_tuned_model")
    if row.deleted_at is not None:
        raise UsageError(f"model '{name}' was deleted; tune it again")
    if (row.state, row.fine_tuned_model) != ("succeeded", name):
        raise CheckpointError(f"model '{name}' is not what its job {row.job_id} released; do not serve it")
    if _ADAPTER in row.files:
        # What it is put on would be the inference server's choice, and was judged by nobody.
        raise CheckpointError(f"model '{name}' is an adapter, and only whole models are handed over; tune it again")
    return row


def _judged(source: Path, row: Row[Any]) -> None:
    """Compare a model with its decision on disk, and that decision with the database.

    Raises:
        CheckpointError: If one differs from another.
    """
    decision = verify_release(source.parent)
    if decision.outcome != "released" or decision.files != row.files:
        raise CheckpointError(
            f"{source.parent} holds another decision than job {row.job_id} ended with; do not serve it"
        )


def _placed(source: Path, folder: Path, row: Row[Any], link: bool) -> None:
    """Copy or link a model's files, and check what has arrived.

    Raises:
        UsageError: If they cannot be linked.
        CheckpointError: If something else has arrived than was judged.
    """
    part = folder.with_name(f"{folder.name}.part")
    if part.exists():  # left by a kill
        shutil.rmtree(part)
    part.mkdir(parents=True)
    for name in row.files:
        if link:
            _linked(source / name, part / name)
        else:
            shutil.copyfile(source / name, part / name)
    # What has arrived, not what was there to be copied: somebody may have changed it in between.
    compare_files(part, row.files)
    part.rename(folder)


def _linked(file: Path, link: Path) -> None:
    try:
        link.hardlink_to(file)
    except OSError as error:  # most often another file system
        raise UsageError(f"{file} cannot be linked ({error.strerror}); leave --link out") from error


def _seal(folder: Path, row: Row[Any]) -> None:
    """Let nobody write a folder or its files; each time, for a kill may have left them as they were."""
    for path, mode in (*((folder / name, 0o444) for name in row.files), (folder, 0o555)):
        if stat.S_IMODE(path.stat().st_mode) != mode:
            path.chmod(mode)


def serving_command(served: ServedModel) -> str:
    """Return the command that has vLLM serve a model."""
    return f"vllm serve {served.folder} --served-model-name {served.name}"
