"""Makes jobs: once, however often a client asks, and within what its project may have."""

import hashlib
import json
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, func, insert, select

from mithridate.service.contract.api_refusal import ApiRefusal
from mithridate.service.contract.job_objects import JobRequest
from mithridate.service.contract.object_ids import is_id, new_id, now
from mithridate.service.database.tables import FILES, JOB_METADATA, JOBS, PROJECTS
from mithridate.service.jobs.job_events import tell
from mithridate.service.jobs.job_states import UNFINISHED
from mithridate.service.keys.api_keys import Caller
from mithridate.service.policy_facts import PolicyFacts

REPLAY = 600
"""Seconds in which a client's retry is the same request."""


class Asking(NamedTuple):
    """A request to make a job, as it came.

    Attributes:
        caller: Who asks.
        request: What for.
        key: Idempotency key, where the client gave one.
        retries: How often the client says that it has tried before.
    """

    caller: Caller
    request: JobRequest
    key: str | None
    retries: int

    @property
    def sha256(self) -> str:
        """Hash of what is asked for; two requests with the same hash ask for the same."""
        tree = self.request.model_dump(mode="json")
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def create_job(connection: Connection, asking: Asking, facts: PolicyFacts, active: int) -> tuple[str, bool]:
    """Return the id of the job that a request asks for, and whether it was made just now.

    Args:
        connection: A writing transaction.
        asking: The request.
        facts: What the policy allows.
        active: Unfinished jobs that a project may have.

    Raises:
        ApiRefusal: If it cannot be made.
    """
    project = asking.caller.project
    # One at a time in each project: what is counted here must still hold when the job is there.
    connection.execute(select(PROJECTS.c.id).where(PROJECTS.c.id == project).with_for_update()).one()
    if (made := _made_before(connection, asking)) is not None:
        return made, False
    facts = facts.of(asking.request.kind)
    _within_policy(asking.request, facts)
    if unfinished(connection, project) >= active:
        raise ApiRefusal(
            429,
            f"the project has {active} unfinished jobs, as many as it may; wait for one to end or cancel one",
            code="quota_exceeded",
            headers={"Retry-After": "60"},
        )
    return _inserted(connection, asking, facts), True


def unfinished(connection: Connection, project: str) -> int:
    """Return how many jobs of a project have not ended."""
    query = select(func.count()).select_from(JOBS).where(JOBS.c.project_id == project, JOBS.c.state.in_(UNFINISHED))
    return int(connection.execute(query).scalar_one())


def _made_before(connection: Connection, asking: Asking) -> str | None:
    own = JOBS.c.project_id == asking.caller.project
    if asking.key is not None:
        row = connection.execute(select(JOBS).where(own, JOBS.c.idempotency_key == asking.key)).one_or_none()
        if row is not None and row.body_sha256 != asking.sha256:
            raise ApiRefusal(
                409,
                "this Idempotency-Key was used for another request; take a new key for a new request",
                param="Idempotency-Key",
                code="idempotency_conflict",
                headers={"x-should-retry": "false"},
            )
        return None if row is None else str(row.id)
    if asking.retries < 1:
        return None
    # The client has tried before and saw no answer; it sends no key, only the count of its tries.
    query = (
        select(JOBS.c.id)
        .where(own, JOBS.c.body_sha256 == asking.sha256, JOBS.c.created_at >= now() - REPLAY)
        .order_by(JOBS.c.seq.desc())
        .limit(1)
    )
    found = connection.execute(query).scalar_one_or_none()
    return None if found is None else str(found)


def _within_policy(request: JobRequest, facts: PolicyFacts) -> None:
    """Refuse what the policy does not let customers choose.

    Raises:
        ApiRefusal: Naming the parameter.
    """
    chosen, kind = request.chosen, request.kind
    if kind == "dpo" and request.validation_file is not None:
        said = "validation_file is scored in supervised tuning alone; leave it out of a job with method dpo"
        raise ApiRefusal(400, said, param="validation_file", code="invalid_value")
    if chosen.n_epochs != "auto" and chosen.n_epochs > facts.most_epochs:
        raise _beyond(kind, "n_epochs", f"is {chosen.n_epochs}; the policy allows up to {facts.most_epochs:g}")
    if chosen.batch_size not in ("auto", facts.batch_size):
        said = f"is {chosen.batch_size}; the policy trains with {facts.batch_size}, or give auto"
        raise _beyond(kind, "batch_size", said)
    if chosen.learning_rate_multiplier != "auto":
        most = facts.highest_learning_rate / facts.learning_rate
        if chosen.learning_rate_multiplier > most:
            said = f"is {chosen.learning_rate_multiplier:g}; the policy allows up to {most:g}"
            raise _beyond(kind, "learning_rate_multiplier", said)


def _beyond(kind: str, name: str, said: str) -> ApiRefusal:
    return ApiRefusal(400, f"{name} {said}", param=f"method.{kind}.hyperparameters.{name}", code="invalid_value")


def _file(connection: Connection, caller: Caller, name: str, param: str) -> Row[Any]:
    """Return the row of a file that can be trained on.

    Raises:
        ApiRefusal: Naming the parameter.
    """
    row = None
    if is_id(name, "file"):
        query = select(FILES).where(FILES.c.id == name, FILES.c.project_id == caller.project)
        row = connection.execute(query).one_or_none()
    if row is None or (row.expires_at is not None and row.expires_at <= now()):
        raise ApiRefusal(400, f"there is no file '{name[:80]}'", param=param, code="file_not_found")
    if row.purpose != "fine-tune":
        raise ApiRefusal(
            400,
            f"file {name} has purpose '{row.purpose}'; upload it with 'fine-tune'",
            param=param,
            code="wrong_purpose",
        )
    if row.status == "error":
        errors = row.row_errors or {"rows": [], "count": 0}
        raise ApiRefusal(
            400,
            f"file {name}: {row.status_details}",
            param=param,
            code="invalid_training_file",
            extra={"rows": errors["rows"], "row_count": errors["count"]},
        )
    return row


def _inserted(connection: Connection, asking: Asking, facts: PolicyFacts) -> str:
    request, caller, job = asking.request, asking.caller, new_id("job")
    training = _file(connection, caller, request.training_file, "training_file")
    given = request.validation_file
    validation = None if given is None else _file(connection, caller, given, "validation_file")
    if validation is not None and validation.sha256 == training.sha256:
        raise ApiRefusal(400, "validation_file holds the same rows as training_file", param="validation_file")
    connection.execute(
        insert(JOBS).values(
            id=job,
            project_id=caller.project,
            model=request.model,
            training_file=training.id,
            training_sha256=training.sha256,
            validation_file=None if validation is None else validation.id,
            validation_sha256=None if validation is None else validation.sha256,
            method={"type": request.kind, request.kind: {"hyperparameters": request.chosen.model_dump()}},
            suffix=request.suffix,
            seed=facts.seed if request.seed is None else request.seed,
            state="validating_files",
            result_files=[],
            created_at=now(),
            idempotency_key=asking.key,
            body_sha256=asking.sha256,
        )
    )
    for key, value in (request.metadata or {}).items():
        connection.execute(insert(JOB_METADATA).values(job_id=job, key=key, value=value))
    tell(connection, job, f"Created fine-tuning job: {job}")
    tell(connection, job, f"Validating training file: {training.id}")
    return job
