"""The process of one job: reads the order in its folder, runs the provider's pipeline, leaves what became of it.

Run by a worker as ``python -m mithridate.service.worker.run_job FOLDER``.
"""

import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path

from mithridate.errors import (
    DataError,
    DefenseError,
    GateError,
    JudgeError,
    MithridateError,
    ModelError,
    ServiceError,
    UsageError,
)
from mithridate.files import disk_was_full
from mithridate.service.worker.confinement import code_places, confine
from mithridate.service.worker.job_order import (
    FAILURE,
    ORDER,
    OUTCOME,
    STORAGE_FULL,
    STORAGE_SAID,
    TRAINING,
    VALIDATION,
    FileRefused,
    JobFailure,
    JobOrder,
    write_told,
)

_CODES: tuple[tuple[type[MithridateError], str], ...] = (
    (JudgeError, "judge_unavailable"),
    (GateError, "gate_unavailable"),
    (ModelError, "model_unavailable"),
    (DefenseError, "defense_cannot_act"),
    (UsageError, "policy_error"),
    (DataError, "policy_error"),
    (ServiceError, "sandbox_unavailable"),
)
"""Code of a failure by the kind of error; any other is a ``pipeline_error``."""

OVERTAKEN = 3
"""Exit status of a process that was started for an attempt that is over."""

_SAID = {
    "storage_full": STORAGE_SAID,
    "judge_unavailable": "a judge failed its self-test or cannot be reached; nothing is released, ask the operator",
    "gate_unavailable": "the gate on uploads cannot decide; nothing is trained, ask the operator",
    "model_unavailable": "the aligned model cannot be loaded; ask the operator",
    "defense_cannot_act": "the policy's defense cannot act on this upload; ask the operator",
    "policy_error": "the operator's policy or the rows it names cannot be used; ask the operator",
    "sandbox_unavailable": "the job cannot be confined on this machine; ask the operator",
    "pipeline_error": "the pipeline failed; ask the operator",
}
"""What a client reads. The error's own words may name folders, judges and addresses; the job's log has them."""


def main(folder: Path, attempt: int | None = None) -> int:
    """Do a job and return the exit status.

    Args:
        folder: The job's folder.
        attempt: Number of the attempt that this process is for; where the order is for another one, it ends.

    Returns:
        0 for a decision, 1 for a failure that has been written down, `STORAGE_FULL` where the disk had no room for
        either.
    """
    worker = os.getppid()
    order = JobOrder.model_validate_json((folder / ORDER).read_bytes())
    if attempt is not None and order.attempt != attempt:
        return OVERTAKEN
    try:
        if order.confined is not None:
            # On a cluster the interpreter is not the worker's, and lies elsewhere.
            reads = [*order.confined, *code_places()]
            confine(folder, [Path(one) for one in reads], network=order.network)
        # Only now: the kernel confines a process with one thread.
        threading.Thread(target=_end_with_worker, args=(worker, folder, attempt), daemon=True).start()
        # Imports torch, inside the confinement.
        from mithridate.service.worker.pipeline_run import run_pipeline

        outcome = run_pipeline(order, folder)
        write_told(folder, OUTCOME, outcome)
        return 0
    except MithridateError as error:
        return _failed(folder, failure_of(error, folder))
    except Exception as error:  # every library has an error of its own for a full disk
        if not disk_was_full(error):
            raise
        _log(traceback.format_exc())
        return _failed(folder, JobFailure(code="storage_full", message=_SAID["storage_full"]))


def _failed(folder: Path, failure: JobFailure) -> int:
    try:
        write_told(folder, FAILURE, failure)
    except OSError as error:
        if not disk_was_full(error):
            raise
        return STORAGE_FULL
    return 1


def failure_of(error: MithridateError, folder: Path) -> JobFailure:
    """Return what a client is told of an error."""
    if isinstance(error, FileRefused):
        return error.failure
    message = str(error)
    if isinstance(error, DataError) and any(name in message for name in (TRAINING, VALIDATION)):
        # No folder of the provider's machine in what a customer reads.
        message = message.replace(f"{folder}/", "").replace(TRAINING, "training_file")
        return JobFailure(code="invalid_training_file", message=message, param="training_file")
    code = next((code for kind, code in _CODES if isinstance(error, kind)), "pipeline_error")
    if disk_was_full(error):
        code = "storage_full"
    _log(f"{code}: {error}")
    return JobFailure(code=code, message=_SAID[code])


def _log(said: str) -> None:
    with suppress(OSError):  # the log lies on the same disk, which may be full
        print(said, file=sys.stderr, flush=True)


def _end_with_worker(parent: int, folder: Path, attempt: int | None) -> None:
    """End this process when its worker is gone or the job is another's, so that it never works beside its successor."""
    while os.getppid() == parent:
        time.sleep(0.5)
        if attempt is not None and JobOrder.model_validate_json((folder / ORDER).read_bytes()).attempt != attempt:
            break
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    found = main(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
    if found == STORAGE_FULL:
        os._exit(found)  # an interpreter that cannot write the end of its log would change the status
    sys.exit(found)
