"""Works through a policy's ladder: tune, repair, judge, rung by rung, until a model may be released."""

import hashlib
import hmac
import os
import tempfile
from pathlib import Path

import torch

from mithridate.errors import DefenseError, ModelError
from mithridate.experiment.jobs import StageNode
from mithridate.experiment.monitor import Monitor
from mithridate.experiment.stage_records import CandidateRecord, EvaluationRecord
from mithridate.experiment.store import Store
from mithridate.gates.upload_verdict import UploadDecision, UploadVerdict
from mithridate.models.quantized_base import require_library
from mithridate.models.serving_forms import store_quantized
from mithridate.provider.audit_figures import figures, harmful
from mithridate.provider.decision import Decision, TriedRung
from mithridate.provider.judge_check import check_judges
from mithridate.provider.policy_jobs import PLAIN
from mithridate.provider.policy_tree import Rung
from mithridate.provider.release_gate import release_checks
from mithridate.provider.stage_work import done
from mithridate.provider.tuning_request import TuningRequest
from mithridate.provider.upload_history import AUDIT_KEY

UNDEFENDED = "the gate takes such an upload with a defense alone, and none acts in tuning on preference pairs"
"""Why preference pairs are refused that the gate wants defended."""


class Ladder:
    """The ladder of a request.

    Args:
        request: The request.
        store: Where stages are kept.
        monitor: Receives the progress.
        verdict: What the gate on uploads says; None where the policy has no gate.
        launch: Processes that share each training and each evaluation.
    """

    def __init__(
        self, request: TuningRequest, store: Store, monitor: Monitor, verdict: UploadVerdict | None, launch: int = 1
    ) -> None:
        self._launch = launch
        self._request, self._store, self._monitor, self._verdict = request, store, monitor, verdict
        request.suspected = verdict is not None and verdict.decision is UploadDecision.DEFEND

    def decide(self) -> Decision:
        """Return the decision; every stage behind it is in the store."""
        request = self._request
        if self._verdict is not None and self._verdict.decision is UploadDecision.REFUSE:
            return request.refused(list(self._verdict.reasons), self._verdict)
        if request.suspected and request.beta is not None:
            reasons = [*(self._verdict.reasons if self._verdict is not None else ()), UNDEFENDED]
            return request.refused(reasons, self._verdict)
        # First: a judge that is broken or away must not be found out after hours of training.
        check_judges(request.policy, request.jobs.rows)
        self._check_form()
        self._monitor.planned(self._planned(), 1)
        aligned = self._audit([], "aligned model")
        rungs: list[TriedRung] = []
        for rung in request.policy.ladder:
            rungs.append(self._try(rung, aligned))
            if rungs[-1].passed:
                return self._decision(rungs, aligned, rungs[-1])
        return self._decision(rungs, aligned, None)

    def _check_form(self) -> None:
        """Store the aligned model in the form that is served, before hours of training for a form that cannot be.

        Raises:
            ModelError: If it cannot be stored so, or not computed with.
            UsageError: If a library that quantizes is not installed.
        """
        form, jobs = self._request.policy.release.form, self._request.jobs
        if (quantize := jobs.policy.quantize) != "none":
            require_library(f"quantize {quantize}", "set quantize to none")
        if form != "merged":
            with tempfile.TemporaryDirectory(prefix="form-", dir=self._store.folder) as folder:
                whole = Path(jobs.reference)
                dtype: torch.dtype = getattr(torch, jobs.policy.dtype)
                store_quantized(whole, Path(folder), form, dtype)

    def _planned(self) -> list[StageNode]:
        """Return all stages, those of rungs included that a released model may spare; each once."""
        found = list(self._request.audits([], "aligned model").values())
        for rung in self._request.policy.ladder:
            nodes = self._request.stages(rung)
            found += [*nodes, *self._request.audits(nodes, rung.name).values()]
        return list({node.key: node for node in found}.values())

    def _try(self, rung: Rung, aligned: dict[str, EvaluationRecord]) -> TriedRung:
        nodes = self._request.stages(rung)
        node = nodes[0]
        try:
            for place, node in enumerate(nodes):
                done(self._store, node, nodes[:place], self._monitor, self._launch)
            found = self._audit(nodes, rung.name)
        except (DefenseError, ModelError) as error:
            self._monitor.failed(node, str(error))
            # A repair that cannot act here, or weights that became NaN, leave the next rung; what this one would have
            # released is not judged.
            return TriedRung(name=rung.name, cannot_act=str(error))
        return TriedRung(
            name=rung.name,
            checks=release_checks(found, aligned, self._request.policy.release),
            figures=figures(found, aligned),
            harmful_prompts=self._keyed(found[PLAIN]),
        )

    def _audit(self, before: list[StageNode], name: str) -> dict[str, EvaluationRecord]:
        nodes = self._request.audits(before, name)
        for node in nodes.values():
            done(self._store, node, before, self._monitor, self._launch)
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

    def _decision(
        self, rungs: list[TriedRung], aligned: dict[str, EvaluationRecord], passed: TriedRung | None
    ) -> Decision:
        request = self._request
        files: dict[str, str] = {}
        merging: list[str] = []
        if passed is not None:
            rung = next(one for one in request.policy.ladder if one.name == passed.name)
            candidate = self._store.record(request.stages(rung)[-1], CandidateRecord)
            files = candidate.files
            merging = _merging(request.policy.quantize, candidate)
        tried = [reason for rung in rungs for reason in rung.reasons]
        return Decision(
            outcome="refused_at_release" if passed is None else "released",
            reasons=tried if passed is None else [*tried, f"{passed.name}: every check passed", *merging],
            templates=request.templates,
            aligned=figures(aligned, aligned),
            rungs=rungs,
            released=None if passed is None else passed.name,
            files=files,
            **request.facts(self._verdict),
        )


def _merging(form: str, candidate: CandidateRecord) -> list[str]:
    """Return what merging the adapter changed, where it was trained on a quantized base; the model is judged merged."""
    loss = candidate.merging
    if loss is None:
        return []
    return [
        f"it was tuned on a base in {form} and judged merged into the whole weights, which differ by "
        f"{loss['merged']:.1%} from those it was tuned on (the adapter itself changes {loss['update']:.1%})"
    ]
