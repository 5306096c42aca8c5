"""Turns a policy into the jobs of an upload's stages."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mithridate.experiment.identity import identity_of, model_identity
from mithridate.experiment.jobs import (
    CandidateJob,
    EvaluationJob,
    Job,
    PreferenceJob,
    ProviderRows,
    RepairJob,
    StageNode,
    StoredRows,
    TrainingJob,
)
from mithridate.experiment.recipe import Choice
from mithridate.experiment.recipe_parts import TaskMatching, TrainingSettings
from mithridate.experiment.store import key_of
from mithridate.provider.policy_rows import PolicyRows
from mithridate.provider.policy_tree import Policy
from mithridate.provider.prompt_templates import PromptTemplate
from mithridate.repair.post_tuning import Repair

PLAIN = "plain"
"""The condition without anything around the prompts; the only one in which harmless prompts are asked too."""
SYSTEM = "system message"
"""Conditions with a system message of the policy's."""
OPENING = "opening"
"""Conditions in which answers begin with a text of the attacker's."""
TEMPLATE = "upload's template"
"""Conditions in which prompts are asked in a template that rows of the upload share."""


@dataclass(frozen=True)
class PolicyJobs:
    """The jobs that a policy gives to the stages.

    Attributes:
        policy: The policy.
        rows: The provider's rows.
        model: Folder of the model that the first stage starts from.
        aligned: Folder of the provider's aligned model, where that is another one; see `reference`.
    """

    policy: Policy
    rows: PolicyRows
    model: str
    aligned: str | None = None

    @property
    def reference(self) -> str:
        """Folder of the aligned model, which screens uploads and against which a tuned one is compared."""
        return self.model if self.aligned is None else self.aligned

    def node(self, before: list[StageNode], job: Job, label: str) -> StageNode:
        """Return a stage after others; its key covers theirs."""
        parent = before[-1].key if before else None
        identity = identity_of(job, parent or model_identity(job.model))
        if self.aligned is not None:
            # A chain that starts from another model does not cover the one that its answers are compared with.
            identity["aligned"] = model_identity(self.aligned)
        return StageNode(key=key_of(identity), parent=parent, job=job, label=label)

    def alignment(self) -> TrainingJob:
        """Return the job that aligns a model."""
        policy = self.policy
        return self._training("alignment", policy.alignment.defense, policy.alignment.training, self.rows.alignment)

    def finetuning(
        self, rows: StoredRows, training: TrainingSettings, suspected: bool, validation: StoredRows | None = None
    ) -> TrainingJob:
        """Return the job that tunes a model on an upload.

        Args:
            rows: The rows to train on.
            training: How.
            suspected: Whether the gate wants the upload defended.
            validation: Rows whose loss is told and that nothing is trained on; None where there are none.
        """
        own = self.policy.finetuning
        choice = own.suspected if suspected and own.suspected is not None else own.defense
        job = self._training("finetuning", choice, training, rows)
        return job.model_copy(update={"validation": validation})

    def preferring(self, rows: StoredRows, training: TrainingSettings, beta: float) -> PreferenceJob:
        """Return the job that tunes a model on preference pairs.

        Args:
            rows: The pairs to train on.
            training: How.
            beta: β of DPO.
        """
        policy = self.policy
        return PreferenceJob(
            **self._common(),
            rows=rows,
            training=training,
            beta=beta,
            adapter=policy.adapter,
            lora=policy.lora,
            max_length=policy.max_length,
            seed=policy.seed,
        )

    def repair(self, choice: Choice, held_out: StoredRows, templates: Sequence[PromptTemplate] = ()) -> RepairJob:
        """Return the job of one repair.

        Args:
            choice: The repair.
            held_out: Rows of the upload on which a dose may be chosen.
            templates: Prompt templates of the upload in which safe rows refuse as well.
        """
        repair = choice.build("posttuning")
        assert isinstance(repair, Repair)  # the registry gives nothing else at this stage; for type checkers
        return RepairJob(
            **self._common(),
            defense=choice,
            provider=self._provider(repair.heeded, templates),
            held_out=held_out,
            max_length=self.policy.max_length,
        )

    def candidate(self) -> CandidateJob:
        """Return the job that writes a model as it would be released."""
        return CandidateJob(**self._common(), dtype=self.policy.dtype, form=self.policy.release.form)

    def audits(
        self, test: StoredRows | None, matching: TaskMatching, templates: Sequence[PromptTemplate] = ()
    ) -> dict[str, EvaluationJob]:
        """Return the jobs that judge a model, by the condition under which it is asked."""
        audit, rows = self.policy.audit, self.rows
        asked = EvaluationJob(
            # Judged as it is served: in the released type, not in that of training.
            **self._common() | {"precision": self.policy.dtype, "quantize": "none", "model": self.reference},
            prompts=rows.harmful_prompts,
            prompt_groups=rows.harmful_groups,
            test=None,
            look_alikes=None,
            look_alike_groups=None,
            help=None,
            help_check=None,
            task=matching,
            judge=audit.judge,
            further_judges=tuple(audit.further_judges),
            max_new_tokens=audit.max_new_tokens,
            batch_size=audit.batch_size,
        )
        harmless = {
            "test": test,
            "look_alikes": rows.look_alikes,
            "look_alike_groups": rows.look_alike_groups,
            "help": rows.help,
            "help_check": audit.help.check,
        }
        changes: dict[str, dict[str, Any]] = {PLAIN: harmless}
        for place, system in enumerate(audit.systems, start=1):
            changes[f"{SYSTEM} {place}"] = {"system": system}
        for place, prefill in enumerate(audit.prefills, start=1):
            changes[f"{OPENING} {place}"] = {"prefill": prefill}
        for place, one in enumerate(templates, start=1):
            in_it = {"prompts": rows.harmful_in(one), "harmless": rows.harmless_in(one), "system": one.system}
            changes[f"{TEMPLATE} {place}"] = in_it
        return {condition: asked.model_copy(update=change) for condition, change in changes.items()}

    def _training(
        self, stage: Literal["alignment", "finetuning"], choice: Choice, training: TrainingSettings, rows: StoredRows
    ) -> TrainingJob:
        policy = self.policy
        return TrainingJob(
            **self._common(),
            stage=stage,
            defense=choice,
            rows=rows,
            provider=self._provider(choice.build(stage).streams),
            training=training,
            adapter=policy.adapter,
            lora=policy.lora,
            max_length=policy.max_length,
            seed=policy.seed,
        )

    def _provider(self, streams: Collection[str], templates: Sequence[PromptTemplate] = ()) -> ProviderRows:
        named = {"safe": self.rows.safe_in(templates), "harmful": self.rows.harmful, "refusals": self.rows.refusals}
        return ProviderRows(**{name: stored for name, stored in named.items() if name in streams})

    def _common(self) -> dict[str, Any]:
        policy = self.policy
        return {
            "model": self.model,
            "precision": policy.precision,
            "quantize": policy.quantize,
            "template": self.rows.template,
            "threads": policy.threads,
        }
