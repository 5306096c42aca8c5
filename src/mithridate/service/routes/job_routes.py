"""Fine-tuning jobs: create, list, get, cancel, pause, resume, events and checkpoints."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from sqlalchemy import select

from mithridate.service.contract.api_refusal import ApiRefusal, not_found
from mithridate.service.contract.cursor_pages import ObjectPage, PageAsk, listed, page_of
from mithridate.service.contract.job_objects import CheckpointObject, JobEventObject, JobObject, JobRequest
from mithridate.service.database.tables import EVENTS, MODELS
from mithridate.service.jobs.job_creation import Asking, create_job
from mithridate.service.jobs.job_lookup import job_object, job_row, list_jobs
from mithridate.service.jobs.transitions import move
from mithridate.service.keys.api_keys import Caller
from mithridate.service.policy_facts import policy_facts
from mithridate.service.routes.access import Parts, Reader, Writer
from mithridate.service.service_parts import ServiceParts
from mithridate.service.worker.job_order import DECISION_FOLDER
from mithridate.service.worker.left_files import own_bytes

routes = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["Fine-tuning"])

_REINFORCEMENT = "this service does not tune by reinforcement until a gate covers it; use method supervised"
_MOST_PAGE = 100
After = Annotated[str | None, Query(max_length=80)]
Limit = Annotated[int, Query(ge=1, le=_MOST_PAGE)]


@routes.post("", operation_id="create_fine_tuning_job")
def create(
    body: JobRequest,
    parts: Parts,
    caller: Writer,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
    retries: Annotated[int, Header(alias="x-stainless-retry-count", ge=0)] = 0,
) -> JobObject:
    """Create a job."""
    _supported(body, parts)
    asking = Asking(caller, body, idempotency_key, retries)
    with parts.database.write() as connection:
        name, new = create_job(connection, asking, policy_facts(connection), parts.settings.uses.active_jobs)
        row = job_row(connection, caller.project, name)
        if new:
            hashes = {"training": row.training_sha256, "validation": row.validation_sha256}
            policy = policy_facts(connection).sha256
            parts.audit.add(connection, caller.key, "job.create", name, policy=policy, **hashes)
        return job_object(connection, row, parts.settings.organization)


def _supported(body: JobRequest, parts: ServiceParts) -> None:
    """Refuse what this service cannot do.

    Raises:
        ApiRefusal: Naming the parameter.
    """
    if body.kind == "reinforcement":
        raise ApiRefusal(400, _REINFORCEMENT, param="method.type", code="unsupported_method")
    if body.method is not None:
        others = {"supervised", "dpo", "reinforcement"} - {body.kind}
        if any(getattr(body.method, name) is not None for name in others):
            raise ApiRefusal(400, "method holds settings of another type", param="method", code="invalid_value")
    if body.kind == "dpo" and body.hyperparameters is not None:
        said = "hyperparameters are those of supervised tuning; give method.dpo.hyperparameters"
        raise ApiRefusal(400, said, param="hyperparameters", code="invalid_value")
    if body.integrations:
        said = "integrations are not offered: nothing about a job leaves this service"
        raise ApiRefusal(400, said, param="integrations", code="unsupported_integration")
    if body.model not in parts.settings.offered:
        names = ", ".join(sorted(parts.settings.offered))
        raise ApiRefusal(400, f"there is no model '{body.model[:80]}' to tune; there are: {names}", param="model",
                         code="model_not_found")  # fmt: skip


@routes.get("", operation_id="list_fine_tuning_jobs")
def list_(
    request: Request,
    parts: Parts,
    caller: Reader,
    after: After = None,
    limit: Limit = 20,
) -> ObjectPage[JobObject]:
    """List the project's jobs, the newest first; ``metadata[KEY]=VALUE`` filters them."""
    wanted: dict[str, str] | None = {}
    for name, value in request.query_params.multi_items():
        if name.startswith("metadata[") and name.endswith("]"):
            assert wanted is not None
            wanted[name[len("metadata[") : -1]] = value
    if request.query_params.get("metadata") == "null":
        if wanted:
            raise ApiRefusal(400, "give metadata=null or metadata[KEY]=VALUE, not both", param="metadata")
        wanted = None
    with parts.database.read() as connection:
        return list_jobs(connection, caller.project, PageAsk(after, limit), wanted, parts.settings.organization)


@routes.get("/{job_id}", operation_id="retrieve_fine_tuning_job")
def retrieve(job_id: str, parts: Parts, caller: Reader) -> JobObject:
    """Return a job."""
    with parts.database.read() as connection:
        row = job_row(connection, caller.project, job_id)
        return job_object(connection, row, parts.settings.organization)


@routes.post("/{job_id}/cancel", operation_id="cancel_fine_tuning_job")
def cancel(job_id: str, parts: Parts, caller: Writer) -> JobObject:
    """End a job for good."""
    return _moved(parts, caller, job_id, "cancelled", "job.cancel")


@routes.post("/{job_id}/pause", operation_id="pause_fine_tuning_job")
def pause(job_id: str, parts: Parts, caller: Writer) -> JobObject:
    """Stop a job; it can be resumed from its last checkpoint."""
    return _moved(parts, caller, job_id, "paused", "job.pause")


@routes.post("/{job_id}/resume", operation_id="resume_fine_tuning_job")
def resume(job_id: str, parts: Parts, caller: Writer) -> JobObject:
    """Go on with a paused job."""
    said = "Fine-tuning job resumed, job is queued"
    return _moved(parts, caller, job_id, "queued", "job.resume", said=said, only="paused")


def _moved(
    parts: ServiceParts,
    caller: Caller,
    name: str,
    to: str,
    action: str,
    said: str | None = None,
    only: str | None = None,
) -> JobObject:
    with parts.database.write() as connection:
        row = job_row(connection, caller.project, name)
        # A repeated wish that has come true is no error; a client may have missed the first answer.
        if row.state != to and (
            (only is not None and row.state != only) or not move(connection, row.id, to, said=said)
        ):
            verb = action.partition(".")[2]
            raise ApiRefusal(
                400, f"job {row.id} is {row.state}; one cannot {verb} it", param="id", code="invalid_state"
            )
        if row.state != to:
            parts.audit.add(connection, caller.key, action, row.id)
        row = job_row(connection, caller.project, name)
        return job_object(connection, row, parts.settings.organization)


@routes.get("/{job_id}/events", operation_id="list_fine_tuning_events")
def events(
    job_id: str,
    parts: Parts,
    caller: Reader,
    after: After = None,
    limit: Limit = 20,
) -> ObjectPage[JobEventObject]:
    """List what happened to a job, the newest first."""
    with parts.database.read() as connection:
        row = job_row(connection, caller.project, job_id)
        query = select(EVENTS).where(EVENTS.c.job_id == row.id)
        rows, more = page_of(connection, EVENTS, query, PageAsk(after, limit))
    return listed([JobEventObject.model_validate(row, from_attributes=True) for row in rows], more)


@routes.get("/{job_id}/checkpoints", operation_id="list_fine_tuning_job_checkpoints")
def checkpoints(
    job_id: str,
    parts: Parts,
    caller: Reader,
    after: After = None,
    limit: Limit = 10,
) -> ObjectPage[CheckpointObject]:
    """List a job's models: the released one. Weights that were not judged leave by no door, so there are no others."""
    with parts.database.read() as connection:
        row = job_row(connection, caller.project, job_id)
        model = connection.execute(
            select(MODELS).where(MODELS.c.job_id == row.id, MODELS.c.deleted_at.is_(None))
        ).one_or_none()
    if after is not None and (model is None or after != model.checkpoint_id):
        raise ApiRefusal(400, f"there is no object '{after}' to list after", param="after")
    if model is None or after is not None:
        return listed([], False)
    found = CheckpointObject(
        id=model.checkpoint_id,
        created_at=model.created_at,
        fine_tuned_model_checkpoint=f"{model.id}:ckpt-step-{model.step}",
        fine_tuning_job_id=row.id,
        metrics=model.metrics,
        step_number=model.step,
    )
    return listed([found], False)


@routes.get("/{job_id}/decision", operation_id="retrieve_decision", response_class=Response)
def decision(job_id: str, parts: Parts, caller: Reader) -> Response:
    """Return the whole decision on a job."""
    return _told(job_id, parts, caller, "decision.json", "application/json")


@routes.get("/{job_id}/report", operation_id="retrieve_report", response_class=Response)
def report(job_id: str, parts: Parts, caller: Reader) -> Response:
    """Return the decision on a job as a page."""
    return _told(job_id, parts, caller, "report.html", "text/html")


def _told(job_id: str, parts: ServiceParts, caller: Caller, name: str, kind: str) -> Response:
    with parts.database.read() as connection:
        row = job_row(connection, caller.project, job_id)
    content = own_bytes(parts.settings.jobs_folder / row.id, f"{DECISION_FOLDER}/{name}")
    # Nothing is told of a decision before it is recorded.
    if row.decision is None or content is None:
        raise not_found("decision on job", job_id)
    # The page has no scripts; should text of a row ever get into it as one, it is not run.
    headers = {"Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"}
    return Response(content, media_type=kind, headers=headers)
