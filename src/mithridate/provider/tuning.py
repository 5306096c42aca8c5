"""From an upload to a decision: the gate on uploads, defended fine-tuning, repair, the gate on releases."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset

from mithridate.errors import UsageError
from mithridate.experiment.disk import plain_disk_errors
from mithridate.experiment.launch import check_launch
from mithridate.experiment.monitor import Monitor
from mithridate.experiment.recipe_parts import TrainingSettings
from mithridate.experiment.row_files import RowFiles, stored_rows
from mithridate.experiment.store import Store
from mithridate.experiment.workers import quiet_libraries
from mithridate.gates.upload_verdict import UploadDecision, UploadVerdict
from mithridate.models.loading import Where, load_served, locate, positions_of
from mithridate.provider.decision import Decision, read_decision, write_decision
from mithridate.provider.decision_page import REPORT, write_decision_page
from mithridate.provider.given_upload import GivenUpload, read_upload
from mithridate.provider.given_validation import read_validation
from mithridate.provider.hand_over import hand_over
from mithridate.provider.ladder import Ladder
from mithridate.provider.policy_file import make_policy, opened
from mithridate.provider.policy_jobs import PolicyJobs
from mithridate.provider.policy_rows import PolicyRows
from mithridate.provider.policy_tree import Policy
from mithridate.provider.refused_upload import RefusedUpload, UploadData, write_findings
from mithridate.provider.released_before import aligned_behind
from mithridate.provider.screening import FINDINGS, screened, screening_hashes
from mithridate.provider.tuning_request import TuningRequest, asked_for
from mithridate.provider.upload_history import UploadHistory, history_lock
from mithridate.training.processes import refuse_launcher

MOST_BETA = 2.0
"""Largest β that may be asked for, as in OpenAI's contract."""

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
    aligned: str | None = None,
    history: str | Path | None = None,
    validation: str | Path | Dataset | None = None,
    method: str = "supervised",
    beta: float | None = None,
    launch: int = 1,
    monitor: Monitor | None = None,
) -> Decision:
    """Tune an aligned model on an upload that nobody has vetted, and release it or refuse.

    Interrupted at any point, the same call goes on. The decision is on disk before a model leaves; ``out/model``
    exists only where it says so.

    Args:
        model: The aligned model: a folder or hub id; or a model that an earlier call released, to tune it again.
        data: The upload.
        policy: A policy, its file or its tree of settings; the default one for the miniature.
        out: Folder of the decision.
        epochs: What the customer asks for, within the policy's limits; by default the policy's.
        learning_rate: Likewise.
        seed: What the customer asks for; by default the policy's.
        aligned: The aligned model behind ``model``, where that is one that was released.
        history: Folder of the customer's earlier uploads, which the gate counts together with this one.
        validation: The customer's rows whose loss is told while the model is tuned, to the monitor alone. Nothing is
            trained on them, chosen by them or decided by them.
        method: ``dpo`` where the upload holds preference pairs, as OpenAI's files have them.
        beta: β of DPO that the customer asks for; by default the policy's.
        launch: Processes that share each training and each evaluation. The decision is that of one process, unless a
            figure lies within rounding of a limit.
        monitor: Receives the progress.

    Raises:
        RecipeError: If the policy or the seed has a fault.
        UsageError: If a setting is wrong, ``out`` holds the decision on another request, or so many processes cannot
            share the work.
        DataError: If there is no such upload; one with faults is refused by a decision. If the validation rows have
            faults or no answers within ``max_length``, are more than the policy takes, or share a prompt with the
            upload.
        CheckpointError: If a released model to tune again is not what was judged.
        JudgeError: If a judge fails its self-test or cannot be reached; nothing is released then.
        MithridateError: If a stage fails; what is finished is kept.
    """
    refuse_launcher("an upload is tuned", "with --launch N")
    options = _checked_options(policy, epochs, learning_rate, seed, method, beta, launch)
    if options.beta is not None and validation is not None:
        raise UsageError("validation rows are scored in supervised tuning alone; leave them out")
    if history is not None and options.checked.gate == "none":
        raise UsageError(f"policy '{options.checked.name}' has no gate that could count a history; leave it out")
    folder = _folder(out, "--out")
    kept = None if history is None else _folder(history, "--history")
    store = Store(folder / STORE)
    monitor = monitor or Monitor()
    quiet_libraries()
    with store.locked(), plain_disk_errors(folder):
        reference = aligned_behind(model, aligned)
        rows = PolicyRows(options.checked, options.base, store.folder / "inputs")
        files = RowFiles(options.base, store.folder / "inputs")
        jobs = PolicyJobs(options.checked, rows, locate(model, tokenizer=True), reference)
        request = _request(options, jobs, data, validation, files)
        made, verdict = _made_or_gated(request, files, folder, kept)
        if made is None:
            made = _decided(request, store, monitor, verdict, folder, launch)
            write_decision(folder, made)
        write_decision_page(made, folder / REPORT)
        request.suspected = made.gate is not None and made.gate.decision is UploadDecision.DEFEND
        hand_over(made, request.released(made, store), folder)
        if (trained := request.trained(made)) is not None:
            monitor.decided(trained)
    return made


class _TuningOptions(NamedTuple):
    """What a customer asks for, within the policy.

    Attributes:
        named: The policy as it was opened.
        checked: The policy with the customer's seed.
        base: Folder from which its files are named.
        training: How the upload is tuned.
        beta: β of DPO; None in supervised tuning.
    """

    named: Policy
    checked: Policy
    base: Path
    training: TrainingSettings
    beta: float | None


def _checked_options(
    policy: str | Path | dict[str, Any] | Policy | None,
    epochs: float | None,
    learning_rate: float | None,
    seed: int | None,
    method: str,
    beta: float | None,
    launch: int,
) -> _TuningOptions:
    """Return what is asked for, or refuse it before anything is read or made.

    Raises:
        RecipeError: If the policy or the seed has a fault.
        UsageError: If a setting is wrong, or so many processes cannot share the work.
    """
    named, base = opened(policy)
    # Through the policy's own check, which a copy would skip.
    checked = named if seed is None else make_policy(named.model_dump(mode="json") | {"seed": seed})
    training = asked_for(checked, epochs, learning_rate, method)
    check_launch(launch, [training])
    if method == "dpo" and launch > 1:
        raise UsageError("preference pairs are tuned on by one process; leave --launch out")
    if method != "dpo" and beta is not None:
        raise UsageError("beta is a setting of method dpo; leave it out")
    return _TuningOptions(named, checked, base, training, _beta(checked, beta) if method == "dpo" else None)


def _request(
    options: _TuningOptions, jobs: PolicyJobs, data: UploadData, validation: UploadData | None, files: RowFiles
) -> TuningRequest:
    """Read what is given, and return the request.

    Raises:
        DataError: If there is no such upload, or the validation rows cannot be used.
    """
    checked, rows = options.checked, jobs.rows
    tokenizer = load_served(Where(jobs.reference, None), rows.template)
    pairs = options.beta is not None
    given = read_upload(checked, data, rows, files, tokenizer, positions_of(jobs.reference), pairs=pairs)
    validated = None if validation is None else read_validation(checked, validation, given, files, tokenizer)
    hashes = screening_hashes(checked, files)
    return TuningRequest(options.named, jobs, given, options.training, hashes, validated, options.beta)


def _made_or_gated(
    request: TuningRequest, files: RowFiles, folder: Path, kept: Path | None
) -> tuple[Decision | None, UploadVerdict | None]:
    """Return the decision that the folder holds already, and the gate's verdict on the upload.

    Args:
        request: The request; the history becomes a part of it.
        files: Where rows are stored.
        folder: Folder of the decision.
        kept: Folder of the customer's earlier uploads; None where they are not counted.

    Raises:
        UsageError: If the folder holds the decision on another request.
    """
    with nullcontext() if kept is None else history_lock(kept):
        past = None if kept is None else UploadHistory(kept, request.sha256)
        # What is refused before the gate leaves no record by which the next call could tell which uploads are
        # earlier ones, and nothing of the history decides about it.
        if past is not None and isinstance(request.given, GivenUpload):
            request.counting(past)
        made = read_decision(folder)
        if made is not None and made.request != request.sha256:
            raise UsageError(f"{folder} holds the decision on another request; give another --out")
        return made, _gated(request, files, folder, past) if made is None else made.gate


def _beta(policy: Policy, asked: float | None) -> float:
    """Return β of DPO, as `asked_for` has found that the policy takes pairs.

    Raises:
        UsageError: If it is out of range.
    """
    assert policy.finetuning.preferences is not None  # for type checkers
    if asked is not None and not 0 < asked <= MOST_BETA:
        raise UsageError(f"beta is {asked:g}; it must be above 0 and up to {MOST_BETA:g}")
    return policy.finetuning.preferences.beta if asked is None else asked


def _folder(given: str | Path, option: str) -> Path:
    path = Path(given)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file; give a folder as {option}")
    return path


def _decided(
    request: TuningRequest, store: Store, monitor: Monitor, verdict: UploadVerdict | None, folder: Path, launch: int
) -> Decision:
    given = request.given
    if isinstance(given, RefusedUpload):
        write_findings(given.findings, folder / FINDINGS)
        return request.refused(given.reasons)
    return Ladder(request, store, monitor, verdict, launch).decide()


def _gated(request: TuningRequest, files: RowFiles, folder: Path, past: UploadHistory | None) -> UploadVerdict | None:
    """Return the gate's verdict on the upload; None where the policy has no gate or the upload is refused before it."""
    screening, given = request.policy.gate, request.given
    if screening == "none" or not isinstance(given, GivenUpload):
        return None
    epochs = request.training.epochs
    verdict, gate, findings = screened(request.jobs, screening, files, given, epochs, folder / STORE)
    write_findings(findings, folder / FINDINGS)
    if past is not None:
        assert gate.thresholds is not None  # `screened` has set them; for type checkers
        texts = [(row["prompt"][-1]["content"], row["completion"][0]["content"]) for row in stored_rows(given.rows)]
        hashes = past.hashed(texts, findings, gate.thresholds)
        verdict, request.history = past.joined(verdict, hashes, gate.thresholds, gate.strictness)
    return verdict
