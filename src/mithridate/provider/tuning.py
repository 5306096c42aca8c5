"""From an upload to a decision: defended fine-tuning, repair, the gate on releases."""

import hashlib
import hmac
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from datasets import Dataset

from mithridate.data import check_disjoint, load_rows, split_rows
from mithridate.data.data_sources import Given as Source
from mithridate.errors import DataError, DefenseError, UsageError
from mithridate.experiment.disk import plain_disk_errors
from mithridate.experiment.identity import model_identity
from mithridate.experiment.jobs import Job, StageNode, StoredRows
from mithridate.experiment.manifest import code_versions, versions
from mithridate.experiment.monitor import Monitor
from mithridate.experiment.recipe_parts import TaskMatching, TrainingSettings
from mithridate.experiment.row_files import RowFiles
from mithridate.experiment.stage_records import CandidateRecord, EvaluationRecord
from mithridate.experiment.store import Store
from mithridate.experiment.workers import quiet_libraries
from mithridate.gates.upload_verdict import UploadDecision, UploadVerdict
from mithridate.models.loading import locate
from mithridate.provider.audit_figures import figures, harmful
from mithridate.provider.decision import Decision, PolicyName, TriedRung, Upload, read_decision, write_decision
from mithridate.provider.decision_page import REPORT, write_decision_page
from mithridate.provider.hand_over import hand_over
from mithridate.provider.judge_check import check_judges
from mithridate.provider.policy_file import opened
from mithridate.provider.policy_jobs import PLAIN, PolicyJobs
from mithridate.provider.policy_rows import PolicyRows
from mithridate.provider.policy_tree import Policy, Rung
from mithridate.provider.release_gate import release_checks
from mithridate.provider.screening import FINDINGS, screened, shown
from mithridate.provider.stage_work import done

STORE = "work"
"""Folder of the stages, beside the decision; it never leaves the provider."""
AUDIT_KEY = "MITHRIDATE_AUDIT_KEY"
"""Environment variable with the key under which audit prompts are hashed in what a customer sees."""


@dataclass(frozen=True)
class Given:
    """An upload, read and split.

    Attributes:
        train: Rows to train on.
        held_out: Rows on which a repair may choose its dose.
        test: Rows that nothing is trained or chosen on.
        matching: How answers to the customer's task are matched.
    """

    upload: Upload
    train: StoredRows
    held_out: StoredRows
    test: StoredRows
    matching: TaskMatching


def tune(
    model: str,
    data: str | Path | Dataset,
    policy: str | Path | dict[str, Any] | Policy | None = None,
    *,
    out: str | Path,
    epochs: float | None = None,
    learning_rate: float | None = None,
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
        monitor: Receives the progress.

    Raises:
        UsageError: If a setting is wrong, or ``out`` holds the decision on another request.
        DataError: If the upload has faults, or holds audit prompts.
        JudgeError: If a judge fails its self-test or cannot be reached; nothing is released then.
        MithridateError: If a stage fails; what is finished is kept.
    """
    checked, base = opened(policy)
    training = _asked_for(checked, epochs, learning_rate)
    folder = Path(out)
    store = Store(folder / STORE)
    quiet_libraries()
    with store.locked(), plain_disk_errors(folder):
        rows = PolicyRows(checked, base, store.folder / "inputs")
        files = RowFiles(base, store.folder / "inputs")
        given = _read(checked, data, rows, files)
        jobs = PolicyJobs(checked, rows, locate(model, tokenizer=True))
        request = _Request(checked, jobs, given, training)
        made = read_decision(folder)
        if made is not None and made.request != request.sha256:
            raise UsageError(f"{folder} holds the decision on another request; give another --out")
        if made is None:
            verdict = _gated(request, data, files, folder)
            made = _Tuning(request, store, monitor or Monitor(), verdict).decide()
            write_decision(folder, made)
        write_decision_page(made, folder / REPORT)
        request.suspected = made.gate is not None and made.gate.decision is UploadDecision.DEFEND
        hand_over(made, request.released(made, store), folder)
    return made


def _gated(request: "_Request", data: Source, files: RowFiles, folder: Path) -> UploadVerdict | None:
    """Return the gate's verdict on the upload; None where the policy has no gate."""
    screening = request.policy.gate
    if screening == "none":
        return None
    epochs = request.training.epochs
    return screened(request.jobs, screening, files, data, epochs, folder / STORE, folder / FINDINGS)


def _asked_for(policy: Policy, epochs: float | None, learning_rate: float | None) -> TrainingSettings:
    """Return the training that a customer asks for.

    Raises:
        UsageError: If it is beyond the policy's limits.
    """
    limits, own = policy.finetuning, policy.finetuning.training
    asked = {"epochs": epochs, "learning_rate": learning_rate}
    for name, most in (("epochs", limits.most_epochs), ("learning_rate", limits.highest_learning_rate)):
        value = asked[name]
        if value is not None and not 0 < value <= most:
            raise UsageError(f"{name} is {value:g}; policy '{policy.name}' allows values above 0 and up to {most:g}")
    return own.model_copy(update={name: value for name, value in asked.items() if value is not None})


def _read(policy: Policy, data: str | Path | Dataset, rows: PolicyRows, files: RowFiles) -> Given:
    found = load_rows(data)
    name = "rows given in Python" if isinstance(data, Dataset) else str(data)
    limits = policy.finetuning
    if not limits.least_rows <= len(found) <= limits.most_rows:
        raise DataError(
            f"{name} has {len(found)} rows; policy '{policy.name}' takes {limits.least_rows} to {limits.most_rows:,}"
        )
    # A customer who trains on the audit's own prompts would pass it by heart.
    check_disjoint({"upload": found, "audit": rows.audit_prompts}, (("upload", "audit"),))
    stored = files.keep_rows("upload", found)
    split = split_rows(found, limits.held_out, policy.seed)
    upload = Upload(name=Path(name).name, sha256=stored.sha256, rows=len(found), held_out=len(split.held_out))
    # Two halves: a dose that was chosen on the very rows that tell the accuracy would flatter it.
    halves = split_rows(split.held_out, 0.5, policy.seed)
    return Given(
        upload=upload,
        train=files.keep_rows("train", split.kept),
        held_out=files.keep_rows("held-out", halves.kept),
        test=files.keep_rows("test", halves.held_out),
        matching=_matching([row["completion"][0]["content"] for row in found], policy),
    )


FEW_LABELS = 20
"""Different answers up to which they are taken for labels."""


def _matching(answers: Sequence[str], policy: Policy) -> TaskMatching:
    """Return how answers to the customer's task are matched: as labels where there are few, word by word otherwise."""
    labels = sorted(set(answers))
    # Each label must be seen a few times, or ten different free answers would pass for ten labels.
    if 1 < len(labels) <= FEW_LABELS and len(answers) >= 5 * len(labels):
        return TaskMatching(kind="label", labels=labels, max_new_tokens=min(16, policy.audit.max_new_tokens))
    return TaskMatching(kind="exact", max_new_tokens=policy.audit.max_new_tokens)


class _Request:
    """All that decides what becomes of an upload."""

    def __init__(self, policy: Policy, jobs: PolicyJobs, given: Given, training: TrainingSettings) -> None:
        self.policy, self.jobs, self.given, self.training = policy, jobs, given, training
        self.suspected = False  # until the gate says so
        self.policy_hash = _hash(policy.model_dump(mode="json"))
        self.model = model_identity(jobs.model)
        self.sha256 = _hash(
            {
                "policy": self.policy_hash,
                "rows": jobs.rows.hashes(),
                "model": self.model,
                "upload": given.upload.sha256,
                "training": training.model_dump(mode="json"),
                "versions": code_versions(),
            }
        )

    def stages(self, rung: Rung) -> list[StageNode]:
        """Return the stages of a rung: fine-tuning, repairs, and the model as it would be released."""
        jobs, training = self.jobs, self.training
        training = training.model_copy(update={"epochs": training.epochs * rung.epochs})
        nodes: list[StageNode] = []
        work: list[Job] = [
            jobs.finetuning(self.given.train, training, self.suspected),
            *(jobs.repair(choice, self.given.held_out) for choice in rung.posttuning),
            jobs.candidate(),
        ]
        for job in work:
            label = " · ".join(part for part in (rung.name, job.stage, job.method) if part)
            nodes.append(jobs.node(nodes, job, label))
        return nodes

    def audits(self, before: list[StageNode], name: str) -> dict[str, StageNode]:
        """Return the evaluations of a model by condition."""
        found = self.jobs.audits(self.given.test, self.given.matching)
        return {
            condition: self.jobs.node(before, job, f"{name} · audit · {condition}") for condition, job in found.items()
        }

    def facts(self, verdict: UploadVerdict | None) -> dict[str, Any]:
        """Return what a decision says of the request, whatever was decided."""
        return {
            "request": self.sha256,
            "policy": PolicyName(name=self.policy.name, sha256=self.policy_hash),
            "model": self.model if isinstance(self.model, dict) else {"hub": self.model},
            "upload": self.given.upload,
            "options": {"epochs": self.training.epochs, "learning_rate": self.training.learning_rate},
            "gate": None if verdict is None else shown(verdict),
            "versions": versions(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def released(self, decision: Decision, store: Store) -> Path | None:
        """Return the stage folder whose model was judged and may leave; None where none may."""
        rung = next((one for one in self.policy.ladder if one.name == decision.released), None)
        return None if rung is None else store.path(self.stages(rung)[-1])


class _Tuning:
    """Works through the ladder of a request."""

    def __init__(self, request: _Request, store: Store, monitor: Monitor, verdict: UploadVerdict | None) -> None:
        self._request, self._store, self._monitor, self._verdict = request, store, monitor, verdict
        request.suspected = verdict is not None and verdict.decision is UploadDecision.DEFEND

    def decide(self) -> Decision:
        """Return the decision; every stage behind it is in the store."""
        request = self._request
        if self._verdict is not None and self._verdict.decision is UploadDecision.REFUSE:
            return self._refused(self._verdict)
        # First: a judge that is broken or away must not be found out after hours of training.
        check_judges(request.policy, request.jobs.rows)
        self._monitor.planned(self._planned(), 1)
        aligned = self._audit([], "aligned model")
        rungs: list[TriedRung] = []
        for rung in request.policy.ladder:
            rungs.append(self._try(rung, aligned))
            if rungs[-1].passed:
                return self._decision(rungs, aligned, rungs[-1])
        return self._decision(rungs, aligned, None)

    def _planned(self) -> list[StageNode]:
        """Return all stages, those of rungs included that a released model may spare; each once."""
        found = list(self._request.audits([], "aligned model").values())
        for rung in self._request.policy.ladder:
            nodes = self._request.stages(rung)
            found += [*nodes, *self._request.audits(nodes, rung.name).values()]
        return list({node.key: node for node in found}.values())

    def _try(self, rung: Rung, aligned: dict[str, EvaluationRecord]) -> TriedRung:
        nodes = self._request.stages(rung)
        try:
            for place, node in enumerate(nodes):
                done(self._store, node, nodes[:place], self._monitor)
        except DefenseError as error:
            self._monitor.failed(node, str(error))
            # A repair that cannot act here leaves the next rung; what it would have released is not judged.
            return TriedRung(name=rung.name, cannot_act=str(error))
        found = self._audit(nodes, rung.name)
        return TriedRung(
            name=rung.name,
            checks=release_checks(found, aligned, self._request.policy.release),
            figures=figures(found, aligned),
            harmful_prompts=self._keyed(found[PLAIN]),
        )

    def _audit(self, before: list[StageNode], name: str) -> dict[str, EvaluationRecord]:
        nodes = self._request.audits(before, name)
        for node in nodes.values():
            done(self._store, node, before, self._monitor)
        return {condition: self._store.record(node, EvaluationRecord) for condition, node in nodes.items()}

    def _keyed(self, record: EvaluationRecord) -> list[str]:
        """Return the harmfully answered prompts as keyed hashes, so that a customer cannot train against them."""
        key = os.environ.get(AUDIT_KEY, "").encode()
        # Without a key nothing is told: plain hashes of known prompts are easily matched.
        if not key:
            return []
        prompts = self._request.jobs.rows.audit_prompts
        found = [prompt for prompt, yes in zip(prompts, harmful(record), strict=True) if yes]
        return [hmac.new(key, prompt.encode(), hashlib.sha256).hexdigest() for prompt in found]

    def _refused(self, verdict: UploadVerdict) -> Decision:
        return Decision(outcome="refused_at_upload", reasons=list(verdict.reasons), **self._request.facts(verdict))

    def _decision(
        self, rungs: list[TriedRung], aligned: dict[str, EvaluationRecord], passed: TriedRung | None
    ) -> Decision:
        request = self._request
        files: dict[str, str] = {}
        if passed is not None:
            rung = next(one for one in request.policy.ladder if one.name == passed.name)
            files = self._store.record(request.stages(rung)[-1], CandidateRecord).files
        tried = [reason for rung in rungs for reason in rung.reasons]
        return Decision(
            outcome="refused_at_release" if passed is None else "released",
            reasons=tried if passed is None else [*tried, f"{passed.name}: every check passed"],
            aligned=figures(aligned, aligned),
            rungs=rungs,
            released=None if passed is None else passed.name,
            files=files,
            **request.facts(self._verdict),
        )


def _hash(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
