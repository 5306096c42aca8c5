"""Hands a released model to an inference server: a folder whose bytes are those that were judged, and no other."""

import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock
from sqlalchemy import Row, select

from mithridate.errors import CheckpointError, UsageError
from mithridate.provider.hand_over import verify_release
from mithridate.service.database.tables import JOBS, MODELS
from mithridate.service.judged_files import compare_files
from mithridate.service.released_models import model_folder
from mithridate.service.service_parts import ServiceParts

ADAPTER = "adapter_config.json"


class ServedModel(NamedTuple):
    """A model that may be served.

    Attributes:
        name: Its name.
        folder: Its folder, which nobody may write.
        adapter: Whether it is an adapter, to be served upon its base model.
    """

    name: str
    folder: Path
    adapter: bool


def resolve(parts: ServiceParts, name: str, target: Path, *, link: bool = False) -> ServedModel:
    """Return a folder with a released model's judged bytes, for an inference server to read.

    A folder that is there already is checked again, so that the same call stands before every start of the server.

    Args:
        parts: The service.
        name: The model's name.
        target: Folder in which each model gets one of its own.
        link: Whether its files are hard links; otherwise they are copied.

    Raises:
        UsageError: If there is no such released model.
        CheckpointError: If a file differs from what was judged, wherever it lies.
    """
    row = _row(parts, name)
    folder = target / folder_name(name)
    target.mkdir(parents=True, exist_ok=True)
    with FileLock(target / ".lock"):  # several servers may start at the same time
        if not folder.exists():
            source = model_folder(parts, row)
            _judged(source, row)
            _placed(source, folder, row, link)
        compare_files(folder, row.files)
    return ServedModel(name, folder, ADAPTER in row.files)


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
    return row


def _judged(source: Path, row: Row[Any]) -> None:
    """Compare a model with its decision on disk, and that decision with the database.

    Raises:
        CheckpointError: If one differs from another.
    """
    decision = verify_release(source.parent)
    linked = any(path.is_symlink() for path in (source, *source.glob("*")))  # to bytes that may change
    if linked or decision.outcome != "released" or decision.files != row.files:
        raise CheckpointError(
            f"{source.parent} holds another decision than job {row.job_id} ended with; do not serve it"
        )


def _placed(source: Path, folder: Path, row: Row[Any], link: bool) -> None:
    """Copy or link a model's files, check what has arrived, and let nobody write it."""
    part = folder.with_name(f"{folder.name}.part")
    if part.exists():  # left by a kill
        part.chmod(0o755)
        shutil.rmtree(part)
    part.mkdir(parents=True)
    for name in row.files:
        if link:
            (part / name).hardlink_to(source / name)
        else:
            shutil.copyfile(source / name, part / name)
        (part / name).chmod(0o444)
    # What has arrived, not what was there to be copied: somebody may have changed it in between.
    compare_files(part, row.files)
    part.rename(folder)
    folder.chmod(0o555)


def serving_command(served: ServedModel) -> str:
    """Return the command that has vLLM serve a model."""
    if served.adapter:
        return f"vllm serve BASE --enable-lora --lora-modules {served.name}={served.folder}"
    return f"vllm serve {served.folder} --served-model-name {served.name}"
