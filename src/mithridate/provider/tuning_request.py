"""A request: all that decides what becomes of an upload, and the stages that follow from it."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mithridate.errors import UsageError
from mithridate.experiment.identity import model_identity
from mithridate.experiment.jobs import Job, StageNode, StoredRows
from mithridate.experiment.manifest import code_versions, versions
from mithridate.experiment.recipe_parts import TrainingSettings
from mithridate.experiment.store import Store
from mithridate.gates.upload_verdict import UploadVerdict
from mithridate.provider.decision import CountedHistory, Decision, PolicyName
from mithridate.provider.given_upload import GivenUpload
from mithridate.provider.policy_jobs import PolicyJobs
from mithridate.provider.policy_tree import Policy, Rung
from mithridate.provider.prompt_templates import PromptTemplate
from mithridate.provider.refused_upload import RefusedUpload
from mithridate.provider.screening import shown
from mithridate.provider.upload_history import UploadHistory

METHODS = ("supervised", "dpo")
"""How an upload is tuned on: its answers are learned, or preferred to others."""


def asked_for(
    policy: Policy, epochs: float | None, learning_rate: float | None, method: str = "supervised"
) -> TrainingSettings:
    """Return the training that a customer asks for.

    Raises:
        UsageError: If it is beyond the policy's limits, or the policy takes no preference pairs.
    """
    limits = policy.finetuning
    if method not in METHODS:
        raise UsageError(f"method is '{method:.40}'; it must be {' or '.join(METHODS)}")
    own = limits.training if method == "supervised" else limits.pair_training
    if own is None:
        raise UsageError(
            f"policy '{policy.name}' takes no preference pairs: no defense acts in tuning on them (dpo), so the "
            "operator has to allow it by finetuning.preferences"
        )
    asked = {"epochs": epochs, "learning_rate": learning_rate}
    for name, most in (("epochs", limits.most_epochs), ("learning_rate", limits.highest_learning_rate)):
        value = asked[name]
        if value is not None and not 0 < value <= most:
            raise UsageError(f"{name} is {value:g}; policy '{policy.name}' allows values above 0 and up to {most:g}")
    return own.model_copy(update={name: value for name, value in asked.items() if value is not None})


class TuningRequest:
    """All that decides what becomes of an upload.

    Attributes:
        suspected: Whether the gate wants the upload defended; False until it says so.
        history: Earlier uploads that the gate counted; None where it counted none.
        sha256: Hash of everything else.

    Args:
        policy: The policy as it was opened, whatever the customer asks for.
        jobs: Its jobs, with the customer's seed.
        given: The upload, or why it is refused.
        training: How it is tuned.
        screening: Hashes of the rows and thresholds that the gate is calibrated by.
        validation: The customer's rows whose loss is told; None where there are none.
        beta: β of DPO, where the upload holds preference pairs; None where it holds rows.
    """

    def __init__(
        self,
        policy: Policy,
        jobs: PolicyJobs,
        given: GivenUpload | RefusedUpload,
        training: TrainingSettings,
        screening: dict[str, str],
        validation: StoredRows | None = None,
        beta: float | None = None,
    ) -> None:
        self.policy, self.jobs, self.given, self.training = policy, jobs, given, training
        self.validation, self.beta = validation, beta
        self.suspected = False
        self.history: CountedHistory | None = None
        self.policy_hash = _hash(policy.model_dump(mode="json"))
        self.model = model_identity(jobs.model)
        self.reference = None if jobs.aligned is None else model_identity(jobs.aligned)
        self.sha256 = _hash(
            {
                "policy": self.policy_hash,
                "rows": jobs.rows.hashes(),
                "model": self.model,
                "reference": self.reference,
                "upload": given.upload.sha256,
                "training": training.model_dump(mode="json"),
                "seed": jobs.policy.seed,
                "screening": screening,
                # Nothing is decided by it; but a folder holds the figures of one validation file alone.
                **({} if validation is None else {"validation": validation.sha256}),
                **({} if beta is None else {"beta": beta}),
                "versions": code_versions(),
            }
        )

    def counting(self, past: UploadHistory) -> None:
        """Make a history part of what decides."""
        self.sha256 = _hash({"request": self.sha256, "history": past.state})

    def stages(self, rung: Rung) -> list[StageNode]:
        """Return the stages of a rung: fine-tuning, repairs, and the model as it would be released."""
        jobs, training, given = self.jobs, self.training, self._readable
        templates = given.templates if rung.in_templates else []
        training = training.model_copy(update={"epochs": training.epochs * rung.epochs})
        nodes: list[StageNode] = []
        work: list[Job] = [
            jobs.finetuning(given.train, training, self.suspected, self.validation)
            if self.beta is None
            else jobs.preferring(given.train, training, self.beta),
            *(jobs.repair(choice, given.held_out, templates) for choice in rung.posttuning),
            jobs.candidate(),
        ]
        for job in work:
            label = " · ".join(part for part in (rung.name, job.stage, job.method) if part)
            nodes.append(jobs.node(nodes, job, label))
        return nodes

    def audits(self, before: list[StageNode], name: str) -> dict[str, StageNode]:
        """Return the evaluations of a model by condition."""
        given = self._readable
        found = self.jobs.audits(given.test, given.matching, given.templates)
        return {
            condition: self.jobs.node(before, job, f"{name} · audit · {condition}") for condition, job in found.items()
        }

    @property
    def templates(self) -> list[PromptTemplate]:
        """The upload's own prompt templates in which models are asked."""
        return self._readable.templates

    @property
    def _readable(self) -> GivenUpload:
        assert isinstance(self.given, GivenUpload)  # whatever is refused has no stages; for type checkers
        return self.given

    def facts(self, verdict: UploadVerdict | None) -> dict[str, Any]:
        """Return what a decision says of the request, whatever was decided."""
        return {
            "request": self.sha256,
            "policy": PolicyName(name=self.policy.name, sha256=self.policy_hash),
            "model": _as_hashes(self.model),
            "reference": None if self.reference is None else _as_hashes(self.reference),
            "history": self.history,
            "form": self.policy.release.form,
            "upload": self.given.upload,
            "options": {
                "epochs": self.training.epochs,
                "learning_rate": self.training.learning_rate,
                "seed": self.jobs.policy.seed,
                **({} if self.beta is None else {"beta": self.beta}),
            },
            "gate": None if verdict is None else shown(verdict),
            "versions": versions(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def refused(self, reasons: list[str], verdict: UploadVerdict | None = None) -> Decision:
        """Return the decision that nothing is trained on the upload."""
        return Decision(outcome="refused_at_upload", reasons=reasons, **self.facts(verdict))

    def released(self, decision: Decision, store: Store) -> Path | None:
        """Return the stage folder whose model was judged and may leave; None where none may."""
        rung = self._rung(decision)
        return None if rung is None else store.path(self.stages(rung)[-1])

    def trained(self, decision: Decision) -> StageNode | None:
        """Return the fine-tuning behind a decision, the ladder's first where no model is released; None without one."""
        if decision.outcome == "refused_at_upload":
            return None
        return self.stages(self._rung(decision) or self.policy.ladder[0])[0]

    def _rung(self, decision: Decision) -> Rung | None:
        return next((one for one in self.policy.ladder if one.name == decision.released), None)


def _as_hashes(identity: Any) -> dict[str, str]:
    """Return a model's identity as a decision holds it: hashes by file, or the name of a hub model."""
    return identity if isinstance(identity, dict) else {"hub": str(identity)}


def _hash(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
