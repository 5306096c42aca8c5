"""Takes what a job's process left behind into the database: a released model, a refusal, or a failure."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select

from mithridate.errors import CheckpointError
from mithridate.provider.judged_files import MODEL, compare_files
from mithridate.service.contract.object_ids import model_name, new_id, now
from mithridate.service.database.tables import FILES, JOBS, MODELS
from mithridate.service.jobs.job_events import tell
from mithridate.service.jobs.job_leases import Lease, holds
from mithridate.service.jobs.transitions import move
from mithridate.service.policy_facts import report
from mithridate.service.service_parts import ServiceParts
from mithridate.service.worker.job_order import DECISION_FOLDER, JobFailure, JobOutcome
from mithridate.service.worker.left_files import has_own_folder, own_bytes

REFUSALS = {"refused_at_upload": "upload_refused", "refused_at_release": "release_refused"}
"""Code of a failed job by the decision."""
OPERATORS = frozenset({"judge_unavailable", "model_unavailable", "policy_error", "sandbox_unavailable", "storage_full"})
"""Codes of failures that are the operator's to mend; readiness tells them until a decision is made again."""
COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
"""Columns of the table of steps, as OpenAI names them."""
SHOWN = frozenset({"step", "train_loss", "train_mean_token_accuracy", "valid_loss", "valid_mean_token_accuracy"})
"""Figures of the last step among those of a checkpoint; those on the whole validation file are the model's own."""
PIPELINE = "pipeline"
_ROWS_SAID = 10


def take_failure(parts: ServiceParts, connection: Connection, lease: Lease, failure: JobFailure) -> None:
    """End a job for which no decision could be made."""
    error = failure.model_dump()
    said = f"The job failed: {failure.message}"
    if move(connection, lease.job, "failed", fence=lease.fence, error=error, said=said):
        if failure.code in OPERATORS:
            report(connection, PIPELINE, failure.code)
        parts.audit.add(connection, "worker", "job.failed", lease.job, code=failure.code)


def take_outcome(parts: ServiceParts, lease: Lease, folder: Path, outcome: JobOutcome) -> None:
    """End a job whose decision was made.

    Args:
        parts: The service.
        lease: The lease under which it was made; where it is lost, nothing is taken.
        folder: The job's folder.
        outcome: The decision in short.
    """
    if outcome.outcome == "released" and (fault := _unjudged(folder, outcome.files)) is not None:
        with parts.database.write() as connection:
            take_failure(parts, connection, lease, JobFailure(code="model_integrity", message=fault))
        return
    with parts.database.read() as connection:
        if not holds(connection, lease):
            return
        row = connection.execute(select(JOBS).where(JOBS.c.id == lease.job)).one()
    results = [_kept(parts, row.project_id, name, content) for name, content in _results(folder, outcome)]
    with parts.blobs.recording(*(result["id"] for result in results)):
        with parts.database.write() as connection:
            taken = _recorded(parts, connection, lease, row, outcome, results)
        if not taken:  # the lease was lost meanwhile; its successor keeps files of its own
            for result in results:
                parts.blobs.delete(result["id"])


def _unjudged(folder: Path, files: dict[str, str]) -> str | None:
    """Return what is wrong with a released model; None where its bytes are those that were judged."""
    if not has_own_folder(folder, f"{DECISION_FOLDER}/{MODEL}"):
        return "the job has left no model in a folder of its own; nothing is released"
    try:
        compare_files(folder / DECISION_FOLDER / MODEL, files)
    except CheckpointError as error:
        return f"{str(error).replace(str(folder), 'the job')}; nothing is released"
    return None


def _recorded(
    parts: ServiceParts,
    connection: Connection,
    lease: Lease,
    row: Any,
    outcome: JobOutcome,
    results: list[dict[str, Any]],
) -> bool:
    job, released = lease.job, outcome.outcome == "released"
    name = model_name(row.model, parts.settings.organization, row.suffix, job) if released else None
    values: dict[str, Any] = {
        "decision": _decision(job, outcome),
        "trained_tokens": outcome.trained_tokens,
        "result_files": [result["id"] for result in results],
    }
    if released:
        values |= {
            "fine_tuned_model": name,
            "steps_done": max(1, row.steps_total),
            "steps_total": max(1, row.steps_total),
        }
        said = None
    else:
        values["error"] = _refusal(outcome)
        said = f"The job failed: {values['error']['message']}"
    if released and holds(connection, lease):
        if (loss := outcome.metrics.get("full_valid_loss")) is not None:
            told = f"Released model: full validation loss={loss:.4f}"
            tell(connection, job, told, data=dict(outcome.metrics), kind="metrics")
        tell(connection, job, f"New fine-tuned model created: {name}")
    if not move(connection, job, "succeeded" if released else "failed", fence=lease.fence, said=said, **values):
        return False
    for result in results:
        connection.execute(insert(FILES).values(**result))
    if released:
        _model(connection, row, str(name), outcome)
    report(connection, PIPELINE)
    parts.audit.add(
        connection,
        "worker",
        "job.decided",
        job,
        outcome=outcome.outcome,
        policy=outcome.policy,
        training=row.training_sha256,
        files=outcome.files,
    )
    return True


def _model(connection: Connection, row: Any, name: str, outcome: JobOutcome) -> None:
    last = outcome.steps[-1] if outcome.steps else None
    # Of the released model itself, where it was measured; it may differ from the tuned one.
    tuned = {} if last is None else last.shown()
    metrics = {name: value for name, value in tuned.items() if name in SHOWN} | outcome.metrics
    connection.execute(
        insert(MODELS).values(
            id=name,
            project_id=row.project_id,
            job_id=row.id,
            checkpoint_id=new_id("checkpoint"),
            step=last.step if last else 0,
            metrics=metrics,
            files=outcome.files,
            created_at=now(),
        )
    )


def _decision(job: str, outcome: JobOutcome) -> dict[str, Any]:
    kept = outcome.model_dump(include={"outcome", "reasons", "released", "policy", "findings", "flagged"})
    place = f"/v1/fine_tuning/jobs/{job}"
    return kept | {"report": f"{place}/report", "decision": f"{place}/decision"}


def _refusal(outcome: JobOutcome) -> dict[str, Any]:
    """Return the error of a job that was refused: the rows and reasons, first in words, then as data."""
    lines = [found for found in outcome.findings if found.get("line") is not None]
    rows = [
        {"line": one["line"], "code": ",".join(one.get("signals", [])) or "flagged", "message": one["reason"]}
        for one in lines[:100]
    ]
    where = ", ".join(str(one["line"]) for one in lines[:_ROWS_SAID]) + (", …" if outcome.flagged > _ROWS_SAID else "")
    if outcome.outcome == "refused_at_upload":
        said = f"the upload was refused: {'; '.join(outcome.reasons)}"
        if lines:
            one = outcome.flagged == 1
            said += f" (line{'' if one else 's'} {where}: {outcome.flagged} row{'' if one else 's'} flagged)"
    else:
        said = f"no model of this upload may be released: {'; '.join(outcome.reasons)}"
    param = "training_file" if outcome.outcome == "refused_at_upload" else None
    code = REFUSALS[outcome.outcome]
    return {"code": code, "message": said, "param": param, "rows": rows, "row_count": outcome.flagged}


def _results(folder: Path, outcome: JobOutcome) -> Iterator[tuple[str, bytes]]:
    """Return the files that a customer may read, by name; findings with quotes are not among them."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in outcome.steps:
        figures = (one.train_loss, one.train_mean_token_accuracy, one.valid_loss, one.valid_mean_token_accuracy)
        writer.writerow((one.step, *("" if figure is None else figure for figure in figures)))
    yield "step_metrics.csv", table.getvalue().encode()
    for name in ("decision.json", "report.html"):
        content = own_bytes(folder, f"{DECISION_FOLDER}/{name}")
        if content is not None:
            yield name, content


def _kept(parts: ServiceParts, project: str, name: str, content: bytes) -> dict[str, Any]:
    """Keep a result's bytes and return its row."""
    made = new_id("file")
    with parts.blobs.begin(made) as blob:
        blob.write(content)
        parts.blobs.keep(blob, made)
    return {
        "id": made,
        "project_id": project,
        "purpose": "fine-tune-results",
        "filename": name,
        "bytes": blob.size,
        "sha256": blob.sha256,
        "status": "processed",
        "created_at": now(),
    }
