"""Puts an upload through the gate before anything is trained on it."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mithridate.errors import GateError
from mithridate.experiment.evaluation_stage import judge as judge_of
from mithridate.experiment.evaluation_stage import refusal_rules
from mithridate.experiment.identity import MODEL_FILES
from mithridate.experiment.recipe_parts import JudgeSettings
from mithridate.experiment.row_files import RowFiles, stored_rows
from mithridate.files import file_hash
from mithridate.gates.calibration import calibrate
from mithridate.gates.provider import GateProvider
from mithridate.gates.signal_catalog import JOB_SIGNALS, OPTIONAL, ROW_SIGNALS
from mithridate.gates.thresholds import GateThresholds
from mithridate.gates.upload_gate import UploadGate
from mithridate.gates.upload_verdict import UploadFinding, UploadVerdict
from mithridate.models.loading import Where, load, load_served
from mithridate.provider.given_upload import GivenUpload
from mithridate.provider.policy_jobs import PolicyJobs
from mithridate.provider.policy_tree import Policy, Screening

FINDINGS = "findings.jsonl"
"""File of the flagged rows, for the provider; it quotes them."""


class ScreenedUpload(NamedTuple):
    """An upload that has been through the gate.

    Attributes:
        gate: The gate, with its thresholds.
        findings: All flagged rows.
    """

    verdict: UploadVerdict
    gate: UploadGate
    findings: list[UploadFinding]


def screened(
    jobs: PolicyJobs, screening: Screening, files: RowFiles, upload: GivenUpload, epochs: float, work: Path
) -> ScreenedUpload:
    """Return the gate's verdict on an upload, on the very rows that are trained on.

    Args:
        jobs: The policy with its rows and its aligned model.
        screening: The gate's settings.
        files: Reads the harmless uploads.
        upload: The upload.
        epochs: Passes over it that the customer asks for.
        work: Folder in which thresholds are kept.

    Raises:
        GateError: If the gate cannot run, or its thresholds are those of another one.
        JudgeError: If its guard fails.
    """
    gate = gate_of(jobs, screening)
    gate.use(_thresholds(gate, jobs.policy, screening, files, work))
    findings: list[UploadFinding] = []
    # Not the customer's file once more, which could be another by now.
    rows = stored_rows(upload.rows)
    verdict = gate.judge(rows, epochs=epochs, on_finding=findings.append)
    places = rows["origin"]
    named = {"upload": upload.upload.name, "findings": tuple(_placed(one, places) for one in verdict.findings)}
    return ScreenedUpload(verdict.model_copy(update=named), gate, [_placed(one, places) for one in findings])


def _placed(finding: UploadFinding, places: Sequence[str]) -> UploadFinding:
    """Return a finding with the place of its row in the customer's file."""
    return finding if finding.row is None else finding.model_copy(update={"origin": places[finding.row - 1]})


def gate_of(jobs: PolicyJobs, screening: Screening) -> UploadGate:
    """Return the gate of a policy, without thresholds.

    Raises:
        GateError: If a signal lacks what it needs.
    """
    policy, where = jobs.policy, Where(jobs.reference, None)
    rules = refusal_rules(policy.audit.judge, None)
    safe = jobs.rows.safe_rows
    provider = GateProvider(
        # A copy of its own: the gate stops where its model has changed.
        model=load(where, policy.precision),
        tokenizer=load_served(where, jobs.rows.template),
        harmful=jobs.rows.harmful_rows,
        ordinary=safe.filter(lambda row: not rules.refuses(row["completion"][0]["content"])),
        refusals=jobs.rows.refusal_texts,
        judge=None if screening.guard is None else judge_of(screening.guard, rules),
        judge_files=None if screening.guard is None else _files_of(screening.guard),
        max_length=max(16, policy.max_length),
    )
    wanted = screening.signals
    kinds = [kind for kind in (*ROW_SIGNALS, *JOB_SIGNALS) if _asked(kind.name, wanted)]
    return UploadGate(provider, [kind() for kind in kinds], refuse_share=screening.refuse_share)


def _files_of(guard: JudgeSettings) -> dict[str, str]:
    """Return the hashes of a guard's files; none for one behind an endpoint or from the hub, known by name alone."""
    folder = None if guard.model is None or guard.url is not None else Path(guard.model).expanduser()
    if folder is None or not folder.is_dir():
        return {}
    files = sorted(path for path in folder.iterdir() if path.suffix in (*MODEL_FILES, ".bin"))
    return {path.name: file_hash(path) for path in files}


def calibrated(gate: UploadGate, screening: Screening, files: RowFiles, epochs: float) -> GateThresholds:
    """Return thresholds for a gate from the policy's harmless uploads.

    Raises:
        GateError: If there are too few rows for the false-alarm rate.
    """
    uploads = {name: files.rows(source, f"gate.harmless.{name}") for name, source in screening.harmless.items()}
    return calibrate(gate, uploads, screening.false_alarms, epochs=epochs)


def named_thresholds(screening: Screening, files: RowFiles) -> GateThresholds:
    """Return the thresholds that a policy names.

    Raises:
        GateError: If there are none in the file, or they were calibrated for another false-alarm rate.
    """
    path = files.path(str(screening.thresholds), "gate.thresholds")
    found = GateThresholds.load(Path(path))
    if found.false_alarms != screening.false_alarms:
        raise GateError(
            f"{path} was calibrated for false_alarms {found.false_alarms:g}, the policy says "
            f"{screening.false_alarms:g}; run mithridate policy calibrate again"
        )
    return found


def screening_hashes(policy: Policy, files: RowFiles) -> dict[str, str]:
    """Return the SHA-256 of what the gate is calibrated by: harmless uploads, and thresholds where they are named."""
    if policy.gate == "none":
        return {}
    found = {
        name: files.keep_rows("harmless", files.rows(source, f"gate.harmless.{name}")).sha256
        for name, source in policy.gate.harmless.items()
    }
    if policy.gate.thresholds is not None:
        path = Path(files.path(policy.gate.thresholds, "gate.thresholds"))
        if not path.is_file():
            raise GateError(f"gate.thresholds: {path} does not exist; make it with mithridate policy calibrate")
        found["thresholds"] = file_hash(path)
    return found


def shown(verdict: UploadVerdict) -> UploadVerdict:
    """Return a verdict as a customer may see it: rows by number, origin and reason, none of them quoted."""
    found = tuple(map(_unquoted, verdict.findings[:SHOWN]))
    return verdict.model_copy(update={"findings": found, "upload": verdict.upload.rpartition("/")[2]})


SHOWN = 100
"""Findings that a decision lists; `findings.jsonl` holds all."""


def _unquoted(finding: UploadFinding) -> UploadFinding:
    # Without the folders of the provider's machine.
    return finding.model_copy(update={"excerpt": None, "origin": finding.origin.rpartition("/")[2]})


def _asked(name: str, wanted: list[str] | None) -> bool:
    return name not in OPTIONAL if wanted is None else name in wanted


def _thresholds(gate: UploadGate, policy: Policy, screening: Screening, files: RowFiles, work: Path) -> GateThresholds:
    if screening.thresholds is not None:
        return named_thresholds(screening, files)
    # The provider's epochs: a customer who asks for more must not raise the thresholds by which he is judged.
    epochs = policy.finetuning.training.epochs
    # By all that decides them, so that an interrupted call goes on with the same.
    decides = [gate.state.fingerprint, screening.false_alarms, epochs, sorted(screening_hashes(policy, files).items())]
    kept = work / f"thresholds-{hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:20]}.json"
    if not kept.is_file():
        calibrated(gate, screening, files, epochs).save(kept)
    return GateThresholds.load(kept)
