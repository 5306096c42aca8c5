"""From an upload to a decision: the gate on uploads, defended fine-tuning, repair, the gate on releases."""

from pathlib import Path
from typing import Any

from datasets import Dataset

from mithridate.errors import UsageError
from mithridate.experiment.disk import plain_disk_errors
from mithridate.experiment.monitor import Monitor
from mithridate.experiment.row_files import RowFiles
from mithridate.experiment.store import Store
from mithridate.experiment.workers import quiet_libraries
from mithridate.gates.upload_verdict import UploadDecision, UploadVerdict
from mithridate.models.loading import locate
from mithridate.provider.decision import Decision, read_decision, write_decision
from mithridate.provider.decision_page import REPORT, write_decision_page
from mithridate.provider.given_upload import read_upload
from mithridate.provider.hand_over import hand_over
from mithridate.provider.ladder import Ladder
from mithridate.provider.policy_file import opened
from mithridate.provider.policy_jobs import PolicyJobs
from mithridate.provider.policy_rows import PolicyRows
from mithridate.provider.policy_tree import Policy
from mithridate.provider.screening import FINDINGS, screened, screening_hashes
from mithridate.provider.tuning_request import TuningRequest, asked_for
from mithridate.training.processes import refuse_launcher

STORE = "work"
"""Folder of the stages, beside the decision; it never leaves the provider."""


def tune(
    model: str,
    data: str | Path | Dataset,
    policy: str | Path | dict[str, Any] | Policy | None = None,
    *,
    out: str | Path,
    epochs: float | None = None,
    learning_rate: float | None = None,
    seed: int | None = None,
    monitor: Monitor | None = None,
) -> Decision:
    """Tune an aligned model on an upload that nobody has vetted, and release it or refuse.

    Interrupted at any point, the same call goes on. The decision is on disk before a model leaves; ``out/model``
    exists only where it says so.

    Args:
        model: The aligned model: a folder or hub id.
        data: The upload.
        policy: A policy, its file or its tree of settings; the default one for the miniature.
        out: Folder of the decision.
        epochs: What the customer asks for, within the policy's limits; by default the policy's.
        learning_rate: Likewise.
        seed: What the customer asks for; by default the policy's.
        monitor: Receives the progress.

    Raises:
        UsageError: If a setting is wrong, or ``out`` holds the decision on another request.
        DataError: If the upload has faults, or holds audit prompts.
        JudgeError: If a judge fails its self-test or cannot be reached; nothing is released then.
        MithridateError: If a stage fails; what is finished is kept.
    """
    refuse_launcher("an upload is tuned", "or use DefendedTrainer with `accelerate launch`")
    checked, base = opened(policy)
    if seed is not None:
        checked = checked.model_copy(update={"seed": seed})
    training = asked_for(checked, epochs, learning_rate)
    folder = Path(out)
    store = Store(folder / STORE)
    quiet_libraries()
    with store.locked(), plain_disk_errors(folder):
        rows = PolicyRows(checked, base, store.folder / "inputs")
        files = RowFiles(base, store.folder / "inputs")
        given = read_upload(checked, data, rows, files)
        jobs = PolicyJobs(checked, rows, locate(model, tokenizer=True))
        request = TuningRequest(checked, jobs, given, training, screening_hashes(checked, files))
        made = read_decision(folder)
        if made is not None and made.request != request.sha256:
            raise UsageError(f"{folder} holds the decision on another request; give another --out")
        if made is None:
            verdict = _gated(request, data, files, folder)
            made = Ladder(request, store, monitor or Monitor(), verdict).decide()
            write_decision(folder, made)
        write_decision_page(made, folder / REPORT)
        request.suspected = made.gate is not None and made.gate.decision is UploadDecision.DEFEND
        hand_over(made, request.released(made, store), folder)
    return made


def _gated(request: TuningRequest, data: str | Path | Dataset, files: RowFiles, folder: Path) -> UploadVerdict | None:
    """Return the gate's verdict on the upload; None where the policy has no gate."""
    screening = request.policy.gate
    if screening == "none":
        return None
    epochs = request.training.epochs
    return screened(request.jobs, screening, files, data, epochs, folder / STORE, folder / FINDINGS)
