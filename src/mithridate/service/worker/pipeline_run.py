"""Checks the files of a job, runs the provider's pipeline on them, and sums up its decision."""

from pathlib import Path

from mithridate.data import check_disjoint, check_upload, load_rows
from mithridate.data.row_faults import Fault
from mithridate.data.upload_check import UploadReport
from mithridate.errors import DataError
from mithridate.experiment.store import Store
from mithridate.models.loading import load_tokenizer
from mithridate.provider.decision import Decision
from mithridate.provider.given_validation import refuse_crowd
from mithridate.provider.judged_files import MODEL
from mithridate.provider.policy_file import opened, template_of
from mithridate.provider.policy_tree import Policy
from mithridate.provider.tuning import STORE, tune
from mithridate.service.worker.job_order import (
    DECISION_FOLDER,
    PROGRESS,
    TRAINING,
    VALIDATION,
    FileRefused,
    JobFailure,
    JobOrder,
    JobOutcome,
    ProgressLine,
)
from mithridate.service.worker.job_progress import DIGITS, JobMonitor
from mithridate.service.worker.released_loss import released_loss
from mithridate.service.worker.row_messages import TOO_LONG, row_errors, rows_sentence


def run_pipeline(order: JobOrder, folder: Path) -> JobOutcome:
    """Return what became of a job.

    Raises:
        DataError: If a file cannot be used.
        MithridateError: If no decision could be made.
    """
    policy, base = opened(order.policy)
    monitor = JobMonitor(folder / PROGRESS, Store(folder / DECISION_FOLDER / STORE))
    template = template_of(policy, base)
    report = _checked(policy, template, order, folder)
    said = f"{report.conversations} preference pairs" if order.method == "dpo" else f"{report.rows} training rows"
    monitor.tell(ProgressLine(kind="validated", message=said))
    training = policy.finetuning.training if order.method == "supervised" else policy.finetuning.pair_training
    # Without it the pipeline says that the policy takes no pairs; a policy may have changed since the job was made.
    rate = 1.0 if training is None else training.learning_rate
    made = tune(
        order.model,
        folder / TRAINING,
        order.policy,
        out=folder / DECISION_FOLDER,
        epochs=order.epochs,
        learning_rate=None if order.rate is None else order.rate * rate,
        seed=order.seed,
        validation=folder / VALIDATION if order.validation else None,
        method=order.method,
        beta=order.beta,
        monitor=monitor,
    )
    tokens = 0 if report.tokens is None else report.tokens.total
    return JobOutcome(
        outcome=made.outcome,
        reasons=made.reasons,
        released=made.released,
        policy=made.policy.model_dump(),
        files=made.files,
        findings=_findings(made),
        flagged=0 if made.gate is None else made.gate.flagged,
        trained_tokens=None if made.outcome == "refused_at_upload" else round(tokens * made.options["epochs"]),
        steps=monitor.steps,
        metrics=_measured(policy, template, folder) if order.validation and made.outcome == "released" else {},
    )


def _checked(policy: Policy, template: str | None, order: JobOrder, folder: Path) -> UploadReport:
    """Return the report on the training file.

    Raises:
        FileRefused: If it or the validation file has faults.
        DataError: If both hold the same rows.
    """
    tokenizer = load_tokenizer(order.model, template)
    pairs = order.method == "dpo"
    report = check_upload(folder / TRAINING, tokenizer=tokenizer, max_length=policy.max_length, preferences=pairs)
    _refuse_faults(report, "training_file")
    if order.validation:
        other = check_upload(folder / VALIDATION, tokenizer=tokenizer, max_length=policy.max_length)
        _refuse_faults(other, "validation_file")
        _refuse_many(policy, other)
        rows = {"training_file": load_rows(folder / TRAINING), "validation_file": load_rows(folder / VALIDATION)}
        check_disjoint(rows, (("training_file", "validation_file"),))
    return report


def _refuse_faults(report: UploadReport, param: str) -> None:
    code = "invalid_training_file" if param == "training_file" else "invalid_validation_file"
    if report.fault_count:
        rows = row_errors(report.faults)
        message = f"{param}: {rows_sentence(rows, report.fault_count)}"
        raise FileRefused(JobFailure(code=code, message=message, param=param, rows=rows, row_count=report.fault_count))
    if report.tokens is not None and report.tokens.unusable is not None:
        rows = row_errors(Fault(origin, TOO_LONG, "room for its answer") for origin in report.tokens.dropped_origins)
        message = f"{param}: {report.tokens.unusable.splitlines()[0].rstrip(':')}; the first is line {rows[0].line}"
        lost = report.tokens.dropped
        raise FileRefused(JobFailure(code=code, message=message, param=param, rows=rows, row_count=lost))


def _refuse_many(policy: Policy, report: UploadReport) -> None:
    try:
        refuse_crowd(policy, report.rows)
    except DataError as error:
        failure = JobFailure(code="invalid_validation_file", message=str(error), param="validation_file")
        raise FileRefused(failure) from error


def _measured(policy: Policy, template: str | None, folder: Path) -> dict[str, float]:
    """Return what the released model shows on the validation file, under the names of the contract."""
    found = released_loss(folder / DECISION_FOLDER / MODEL, folder / VALIDATION, policy, template)
    figures = {"full_valid_loss": found.loss, "full_valid_mean_token_accuracy": found.accuracy}
    return {name: round(value, DIGITS) for name, value in figures.items() if value is not None}


def _findings(made: Decision) -> list[dict[str, object]]:
    """Return the flagged rows that a decision lists; it quotes none of them."""
    if made.gate is None:
        return []
    return [
        {
            "row": found.row,
            "line": _line(found.origin),
            "signals": sorted(found.signals),
            "reason": found.reason,
        }
        for found in made.gate.findings
    ]


def _line(origin: str) -> int | None:
    """Return the line of a row, from an origin such as ``training.jsonl:17#2``."""
    last = origin.rpartition(":")[2].partition("#")[0]
    return int(last) if last.isdigit() else None
