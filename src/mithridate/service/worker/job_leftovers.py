"""Removes what only a running job needs: its copies of the customer's rows, and weights that nobody judged."""

import shutil
from pathlib import Path

from sqlalchemy import Connection, or_, select

from mithridate.service.database.tables import JOBS
from mithridate.service.jobs.job_states import TERMINAL
from mithridate.service.worker.job_order import DECISION_FOLDER, TRAINING, VALIDATION
from mithridate.service.worker.left_files import has_own_folder

FOLDERS = (f"{DECISION_FOLDER}/work", "tmp")
"""Folders of a job's stages (rows as they were read and split, answers, checkpoints, candidates) and of its caches."""


def drop_leftovers(folder: Path) -> None:
    """Remove the leftovers of a job that has ended; its decision and its released model stay.

    Args:
        folder: The job's folder.
    """
    for name in (TRAINING, VALIDATION):
        (folder / name).unlink(missing_ok=True)
    for name in FOLDERS:
        if has_own_folder(folder, name):
            shutil.rmtree(folder / name, ignore_errors=True)


def has_ended(connection: Connection, job: str) -> bool:
    """Return whether a job has ended, however it did."""
    query = select(JOBS.c.id).where(JOBS.c.id == job, JOBS.c.state.in_(TERMINAL))
    return connection.execute(query).one_or_none() is not None


def ended_jobs_of(connection: Connection, file: str) -> list[str]:
    """Return the jobs that used a file and have ended."""
    uses = or_(JOBS.c.training_file == file, JOBS.c.validation_file == file)
    return list(connection.execute(select(JOBS.c.id).where(uses, JOBS.c.state.in_(TERMINAL))).scalars())
