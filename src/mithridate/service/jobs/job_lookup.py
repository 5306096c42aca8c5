"""Finds jobs and shows them as the contract has it."""

from typing import Any

from sqlalchemy import Connection, Row, and_, exists, select

from mithridate.service.contract.api_refusal import not_found
from mithridate.service.contract.cursor_pages import ObjectPage, PageAsk, listed, page_of
from mithridate.service.contract.job_objects import Hyperparameters, JobObject, Method
from mithridate.service.contract.object_ids import is_id, now
from mithridate.service.database.tables import JOB_METADATA, JOBS


def job_row(connection: Connection, project: str, name: str) -> Row[Any]:
    """Return the row of one of a project's jobs.

    Raises:
        ApiRefusal: If the project has no such job.
    """
    row = None
    if is_id(name, "job"):
        row = connection.execute(select(JOBS).where(JOBS.c.id == name, JOBS.c.project_id == project)).one_or_none()
    if row is None:
        raise not_found("fine-tuning job", name)
    return row


def job_object(connection: Connection, row: Row[Any], organization: str) -> JobObject:
    """Return a job as clients see it."""
    return _object(row, _metadata(connection, [row.id]).get(row.id), organization)


def list_jobs(
    connection: Connection, project: str, ask: PageAsk, wanted: dict[str, str] | None, organization: str
) -> ObjectPage[JobObject]:
    """Return a page of a project's jobs.

    Args:
        connection: The database.
        project: The project.
        ask: The page.
        wanted: Metadata that the jobs must have; None where they must have none.
        organization: The operator's name.
    """
    query = select(JOBS).where(JOBS.c.project_id == project)
    if wanted is None:
        query = query.where(~exists().where(JOB_METADATA.c.job_id == JOBS.c.id))
    for key, value in (wanted or {}).items():
        same = and_(JOB_METADATA.c.job_id == JOBS.c.id, JOB_METADATA.c.key == key, JOB_METADATA.c.value == value)
        query = query.where(exists().where(same))
    rows, more = page_of(connection, JOBS, query, ask)
    metadata = _metadata(connection, [str(row.id) for row in rows])
    return listed([_object(row, metadata.get(row.id), organization) for row in rows], more)


def _metadata(connection: Connection, jobs: list[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for row in connection.execute(select(JOB_METADATA).where(JOB_METADATA.c.job_id.in_(jobs))):
        found.setdefault(row.job_id, {})[row.key] = row.value
    return found


def _object(row: Row[Any], metadata: dict[str, str] | None, organization: str) -> JobObject:
    method = Method.model_validate(row.method)
    assert method.own is not None  # written with its settings when the job was made; for type checkers
    # Without β, for which this older field has no place.
    chosen = Hyperparameters.model_validate(method.own.hyperparameters.model_dump(exclude={"beta"}))
    return JobObject(
        id=row.id,
        created_at=row.created_at,
        error=row.error,
        fine_tuned_model=row.fine_tuned_model,
        finished_at=row.finished_at,
        hyperparameters=chosen,
        model=row.model,
        organization_id=organization,
        result_files=row.result_files,
        seed=row.seed,
        status=row.state,
        trained_tokens=row.trained_tokens,
        training_file=row.training_file,
        validation_file=row.validation_file,
        estimated_finish=_estimate(row),
        metadata=metadata,
        method=method,
        decision=row.decision,
        progress={"done": row.steps_done, "total": row.steps_total},
        attempts=row.attempts,
    )


def _estimate(row: Row[Any]) -> int | None:
    """Return when a running job will end, if its stages go on as fast as so far."""
    if row.state != "running" or not row.steps_done or row.started_at is None:
        return None
    gone = now() - row.started_at
    return int(now() + gone * max(0, row.steps_total - row.steps_done) / row.steps_done)
