"""Jobs: all of them, one with its progress, events, decision and rows, and a form to make one."""

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError
from sqlalchemy import Connection, select

from mithridate.service.contract.api_refusal import ApiRefusal
from mithridate.service.contract.cursor_pages import ObjectPage, PageAsk, listed, page_of
from mithridate.service.contract.job_objects import JobEventObject, JobRequest
from mithridate.service.database.tables import EVENTS, FILES
from mithridate.service.jobs.job_lookup import list_jobs
from mithridate.service.jobs.job_states import EDGES, TERMINAL
from mithridate.service.pages.loss_curve import StepCurve, loss_curves
from mithridate.service.pages.page_access import Changing, Fields, PageRoute, Visiting
from mithridate.service.pages.rendering import rendered
from mithridate.service.routes import job_routes
from mithridate.service.routes.access import Parts
from mithridate.service.routes.health_routes import readiness
from mithridate.service.service_parts import ServiceParts
from mithridate.service.uploaded_files import unexpired
from mithridate.service.worker.metric_events import MOST_METRICS
from mithridate.validation import sentence

pages = APIRouter(route_class=PageRoute, include_in_schema=False)

After = Annotated[str | None, Query(max_length=80)]
METHODS = {"supervised": "supervised: learn the answers", "dpo": "dpo: prefer one answer to the other"}
"""Kinds of fine-tuning that the form offers, and what they are called there."""
_OF_A_PAGE = 20
_EVENTS = 50
_FILES = 500  # offered in the form, the newest first


@pages.get("/")
def home(request: Request, parts: Parts, visitor: Visiting, after: After = None) -> Response:
    """List the project's jobs."""
    with parts.database.read() as connection:
        found = list_jobs(
            connection, visitor.caller.project, PageAsk(after, _OF_A_PAGE), {}, parts.settings.organization
        )
    faults = readiness(parts, Response()).faults
    live = any(job.status not in TERMINAL for job in found.data)
    return rendered(request, "jobs", here="jobs", jobs=found, faults=faults, live=live, first=after is None)


@pages.get("/jobs/new")
def new(request: Request, parts: Parts, visitor: Visiting, file: After = None) -> Response:
    """Show the form that makes a job."""
    return _form(request, parts, visitor.caller.project, {"training_file": file or ""})


@pages.post("/jobs")
def create(request: Request, parts: Parts, fields: Fields, visitor: Changing) -> Response:
    """Make a job."""
    try:
        asked = JobRequest.model_validate(_asked(fields))
        once = fields.get("once") or secrets.token_hex(16)
        made = job_routes.create(asked, parts, visitor.caller, f"page-{once[:64]}", 0)
    except ValidationError as error:
        fault = ApiRefusal(400, sentence(error, JobRequest))
        return _form(request, parts, visitor.caller.project, fields, fault)
    except ApiRefusal as refusal:
        return _form(request, parts, visitor.caller.project, fields, refusal)
    return RedirectResponse(f"/jobs/{made.id}", 303)


def _asked(fields: dict[str, str]) -> dict[str, Any]:
    given = {name: value for name in ("model", "training_file", "validation_file", "suffix")
             if (value := fields.get(name, "").strip())}  # fmt: skip
    epochs = fields.get("n_epochs", "").strip()
    chosen = {"n_epochs": int(epochs) if epochs.isdecimal() and len(epochs) < 4 else epochs} if epochs else {}
    kind = fields.get("method", "supervised")
    # Whatever else a form may say, the request's own check refuses.
    return given | {"method": {"type": kind, kind if kind in METHODS else "supervised": {"hyperparameters": chosen}}}


def _form(
    request: Request, parts: ServiceParts, project: str, fields: dict[str, str], fault: ApiRefusal | None = None
) -> Response:
    query = select(FILES).where(FILES.c.project_id == project, unexpired())
    query = query.where(FILES.c.purpose == "fine-tune", FILES.c.status != "error")
    with parts.database.read() as connection:
        files = connection.execute(query.order_by(FILES.c.seq.desc()).limit(_FILES)).all()
    return rendered(
        request,
        "new_job",
        status=400 if fault else 200,
        here="jobs",
        models=sorted(parts.settings.offered),
        methods=METHODS,
        files=files,
        fields=fields,
        fault=fault,
        once=secrets.token_hex(16),  # a form that is sent twice makes one job
    )


@pages.get("/jobs/{job_id}")
def one(request: Request, job_id: str, parts: Parts, visitor: Visiting, after: After = None) -> Response:
    """Show a job."""
    job = job_routes.retrieve(job_id, parts, visitor.caller)
    names = dict.fromkeys(job.result_files)
    with parts.database.read() as connection:
        told, curves = _happened(connection, job.id, after)
        wanted = {*names, job.training_file, job.validation_file}
        for row in connection.execute(select(FILES.c.id, FILES.c.filename).where(FILES.c.id.in_(wanted))):
            names[row.id] = row.filename
    edges = EDGES[job.status]
    return rendered(
        request,
        "job",
        here="jobs",
        job=job,
        events=told,
        curves=curves,
        names=names,
        live=job.status not in TERMINAL,
        may={"cancel": "cancelled" in edges, "pause": "paused" in edges, "resume": job.status == "paused"},
    )


def _happened(
    connection: Connection, job: str, after: str | None
) -> tuple[ObjectPage[JobEventObject], list[StepCurve]]:
    """Return a page of what happened to a job, and the losses of its trainings, which would bury the rest."""
    own = select(EVENTS).where(EVENTS.c.job_id == job)
    rows, more = page_of(connection, EVENTS, own.where(EVENTS.c.type == "message"), PageAsk(after, _EVENTS))
    figures = own.with_only_columns(EVENTS.c.data).where(EVENTS.c.type == "metrics").order_by(EVENTS.c.seq)
    curves = loss_curves(connection.execute(figures.limit(MOST_METRICS)).scalars())
    return listed([JobEventObject.model_validate(row, from_attributes=True) for row in rows], more), curves


@pages.post("/jobs/{job_id}/{verb}")
def change(job_id: str, verb: str, parts: Parts, visitor: Changing) -> Response:
    """Cancel, pause or resume a job."""
    acts = {"cancel": job_routes.cancel, "pause": job_routes.pause, "resume": job_routes.resume}
    if verb not in acts:
        raise ApiRefusal(404, "there is no such page")
    acts[verb](job_id, parts, visitor.caller)
    return RedirectResponse(f"/jobs/{job_id}", 303)


@pages.get("/jobs/{job_id}/report")
def report(job_id: str, parts: Parts, visitor: Visiting) -> Response:
    """Show the decision's own page."""
    return job_routes.report(job_id, parts, visitor.caller)


@pages.get("/jobs/{job_id}/decision")
def decision(job_id: str, parts: Parts, visitor: Visiting) -> Response:
    """Return the whole decision as JSON."""
    return job_routes.decision(job_id, parts, visitor.caller)
