"""Plans the stages that a recipe needs, each once, in an order in which they can run."""

import functools
from typing import Any, Literal, NamedTuple

import torch

from mithridate.attacks.upload_attack import TrainingAsk
from mithridate.evaluation.vllm.environment import vllm_version
from mithridate.experiment.asked_settings import asked, asked_as
from mithridate.experiment.axes import setting_of, settings
from mithridate.experiment.identity import identity_of, model_identity
from mithridate.experiment.inputs import Inputs
from mithridate.experiment.jobs import EvaluationJob, Job, RepairJob, StageNode, StoredRows, TrainingJob
from mithridate.experiment.recipe import Choice, Recipe, Variant
from mithridate.experiment.recipe_parts import TaskMatching
from mithridate.experiment.recipe_rows import with_data_folder
from mithridate.experiment.store import key_of
from mithridate.models.loading import locate, stored_dtype
from mithridate.models.quantized_base import require_library
from mithridate.repair.post_tuning import Repair
from mithridate.report.axis_results import Setting, plain_value


class Chain(NamedTuple):
    """One variant at one setting and one seed.

    Attributes:
        nodes: Its stages in order, the last one its evaluation.
        aligned: Evaluation of the model after its alignment stage, the reference of helpfulness; None if
            helpfulness is not measured.
    """

    variant: Variant
    setting: Setting
    seed: int
    nodes: list[StageNode]
    aligned: StageNode | None

    @property
    def evaluation(self) -> StageNode:
        """The stage that its figures come from."""
        return self.nodes[-1]

    @property
    def needed(self) -> list[StageNode]:
        """All stages that the chain's figures come from."""
        return [*self.nodes, *([] if self.aligned is None else [self.aligned])]


class Plan:
    """All chains of a recipe, and their distinct stages.

    Ordered seed by seed and setting by setting, so that an interrupted run has all variants of what it did.

    Attributes:
        base: The recipe's own setting.
        chains: One for every variant, setting and seed.
        nodes: Their distinct stages by key.

    Args:
        recipe: The recipe.
        inputs: Its rows.
        place: Folder or hub id of the model's settings, where no weights are to be looked for; the stages then have
            keys of their own. By default the recipe's model, which must be there.

    Raises:
        ModelError: If the recipe's model does not exist.
        UsageError: If vLLM is to answer and is not there.
    """

    def __init__(self, recipe: Recipe, inputs: Inputs, place: str | None = None) -> None:
        self._inputs = inputs
        # Before any stage runs: a model that is missing is found here.
        self._model = place or locate(with_data_folder(recipe.model, "model"), tokenizer=True)
        if place is None and recipe.quantize != "none":
            require_library(f"quantize {recipe.quantize}", "set quantize to none")
        self._origin: Any = place or model_identity(self._model)
        self._precision = _precision(recipe, self._model)
        # Where nothing is run, vLLM need not be there.
        self._vllm = vllm_version() if recipe.evaluation.engine == "vllm" and place is None else None
        self.base = setting_of(recipe)
        self.nodes: dict[str, StageNode] = {}
        recipes = settings(recipe)
        self.chains = [
            self._chain(moved, setting, variant, seed)
            for seed in recipe.seeds
            for setting, moved in recipes.items()
            for variant in moved.variants
        ]

    @property
    def at_base(self) -> list[Chain]:
        """The chains at the recipe's own setting."""
        return [chain for chain in self.chains if chain.setting == self.base]

    def ancestors(self, node: StageNode) -> list[StageNode]:
        """Return the stages before a stage, in their order."""
        found: list[StageNode] = []
        parent = node.parent
        while parent is not None:
            found.insert(0, self.nodes[parent])
            parent = self.nodes[parent].parent
        return found

    def _chain(self, recipe: Recipe, setting: Setting, variant: Variant, seed: int) -> Chain:
        ratio = setting.ratio if variant.ratio is None else variant.ratio
        upload = self._inputs.upload(ratio, setting.size, seed, recipe.streams.user.attack)
        label = functools.partial(_label, variant.name, setting, self.base)
        nodes: list[StageNode] = []
        if variant.alignment.method != "none":
            # With the recipe's seed, not the attack's: the provider aligns once, and all attacks share that stage.
            job = self._training(recipe, "alignment", variant.alignment, self._inputs.alignment, recipe.seed)
            if variant.alignment_epochs is not None:
                longer = job.training.model_copy(update={"epochs": variant.alignment_epochs})
                job = job.model_copy(update={"training": longer})
            self._add(nodes, job, label(job, None))
        if variant.finetuning.method != "none":
            for number, one in enumerate(upload.rounds, 1):
                job = self._training(recipe, "finetuning", variant.finetuning, one.rows, seed, one.asks)
                of = f" · round {number} of {len(upload.rounds)}" if len(upload.rounds) > 1 else ""
                self._add(nodes, job, label(job, seed) + of)
        for choice in variant.posttuning:
            repair = self._repair(recipe, choice, upload.held_out)
            self._add(nodes, repair, label(repair, seed))
        # A list of its own, since the next evaluation is appended to it and not to the variant's stages. Empty without
        # alignment: the reference is then the recipe's model itself.
        aligned = nodes[: 1 if variant.alignment.method != "none" else 0]
        evaluation = self._evaluation(recipe)
        self._add(nodes, evaluation, label(evaluation, seed))
        if evaluation.help is None:
            return Chain(variant, setting, seed, nodes, None)
        self._add(aligned, evaluation, label(evaluation, None) + " · aligned model")
        return Chain(variant, setting, seed, nodes, aligned[-1])

    def _add(self, nodes: list[StageNode], job: Job, label: str) -> None:
        """Append a stage; its key covers its parent's key, and with it every stage before it."""
        parent = nodes[-1].key if nodes else None
        identity = identity_of(job, parent or self._origin)
        node = StageNode(key=key_of(identity), parent=parent, job=job, label=label)
        # The node already planned, where there is one: chains share it, and its label stays that of the first.
        nodes.append(self.nodes.setdefault(node.key, node))

    def _common(self, recipe: Recipe) -> dict[str, Any]:
        """Return the fields that all jobs have."""
        return {
            "model": self._model,
            "precision": self._precision,
            "quantize": recipe.quantize,
            "template": recipe.template,
            "threads": recipe.threads,
        }

    def _training(
        self,
        recipe: Recipe,
        stage: Literal["alignment", "finetuning"],
        choice: Choice,
        rows: StoredRows,
        seed: int,
        asks: TrainingAsk | None = None,
    ) -> TrainingJob:
        training = recipe.alignment if stage == "alignment" else recipe.finetuning
        return TrainingJob(
            **self._common(recipe),
            stage=stage,
            defense=choice,
            rows=rows,
            provider=self._inputs.provider(choice.build(stage).streams),
            training=training if asks is None else asked(training, asks),
            adapter=recipe.adapter,
            lora=recipe.lora if stage == "alignment" else recipe.finetuning_lora or recipe.lora,
            max_length=recipe.max_length,
            seed=seed,
        )

    def _repair(self, recipe: Recipe, choice: Choice, held_out: StoredRows | None) -> RepairJob:
        repair = choice.build("posttuning")
        assert isinstance(repair, Repair)  # the registry gives nothing else at this stage; for type checkers
        return RepairJob(
            **self._common(recipe),
            defense=choice,
            provider=self._inputs.provider(repair.heeded),
            held_out=held_out,
            max_length=recipe.max_length,
        )

    def _evaluation(self, recipe: Recipe) -> EvaluationJob:
        measured, inputs = recipe.evaluation, self._inputs
        return EvaluationJob(
            **self._common(recipe),
            prompts=inputs.evaluation,
            prompt_groups=inputs.evaluation_groups,
            test=inputs.test,
            look_alikes=inputs.look_alikes,
            look_alike_groups=inputs.look_alike_groups,
            help=inputs.help,
            help_check=None if measured.help is None else measured.help.check,
            task=TaskMatching(**measured.task.model_dump(exclude={"rows"})),
            judge=measured.judge,
            max_new_tokens=measured.max_new_tokens,
            batch_size=measured.batch_size,
            asked_as=asked_as(recipe.streams.user.attack),
            release_attacks=measured.release_attacks,
            attacker_benign=inputs.attacker_benign,
            attacker_harmful=inputs.attacker_harmful,
            vllm=self._vllm,
        )


def _label(variant: str, setting: Setting, base: Setting, job: Job, seed: int | None) -> str:
    """Name a stage by variant, stage, method, and what sets it apart from the recipe's own setting."""
    moved = [axis for axis in Setting.model_fields if getattr(setting, axis) != getattr(base, axis)]
    # Stages without a seed are those of alignment, which the axes of the attack do not reach.
    shown = [axis for axis in moved if seed is not None or axis.startswith("alignment")]
    where = [f"{axis.replace('_', ' ')} {plain_value(getattr(setting, axis))}" for axis in shown]
    own = [] if seed is None else [f"seed {seed}"]
    return " · ".join([variant, job.stage, *([job.method] if job.method else []), *where, *own])


def _precision(recipe: Recipe, model: str) -> Literal["float32", "bfloat16"]:
    if recipe.precision != "auto":
        return recipe.precision
    # Never float16: trained without a loss scaler, its gradients underflow.
    return "bfloat16" if stored_dtype(model) is torch.bfloat16 else "float32"


def released_dtype(recipe: Recipe, model: str) -> torch.dtype:
    """Return the type of the weights that a run releases."""
    dtype: torch.dtype = stored_dtype(model) if recipe.dtype == "auto" else getattr(torch, recipe.dtype)
    return dtype
