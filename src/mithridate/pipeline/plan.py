"""Which stages a recipe needs, each once, in an order in which they can run."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

from mithridate.defenses.registry import method
from mithridate.errors import RecipeError
from mithridate.pipeline.inputs import Inputs, Stored
from mithridate.pipeline.manifest import code_versions
from mithridate.pipeline.models import locate
from mithridate.pipeline.recipe import Choice, Recipe, Variant
from mithridate.pipeline.store import key_of
from mithridate.training.state import file_hash


class Node(NamedTuple):
    """One stage of work.

    Attributes:
        stage: ``alignment``, ``finetuning``, ``posttuning`` or ``evaluation``.
        key: Hash of everything that decides its result.
        parent: Key of the stage whose model it takes; None for the model of the recipe.
        spec: Everything the work needs.
    """

    stage: str
    key: str
    parent: str | None
    spec: dict[str, Any]


class Chain(NamedTuple):
    """One variant at one seed.

    Attributes:
        nodes: Its stages in order, the last one its evaluation.
        aligned: Evaluation of the model after its alignment stage, the reference of helpfulness; None where
            helpfulness is not measured.
    """

    variant: Variant
    seed: int
    nodes: list[Node]
    aligned: Node | None = None

    @property
    def needed(self) -> list[Node]:
        """All stages that the chain's figures come from."""
        return [*self.nodes, *([] if self.aligned is None else [self.aligned])]


class Plan:
    """All chains of a recipe, and their distinct nodes.

    Args:
        recipe: The recipe.
        inputs: Its rows.

    Raises:
        ModelError: If the recipe's model does not exist.
    """

    def __init__(self, recipe: Recipe, inputs: Inputs) -> None:
        self._recipe, self._inputs = recipe, inputs
        self._model = locate(recipe.model, tokenizer=True)
        self.nodes: dict[str, Node] = {}
        self.chains = [self._chain(variant, seed) for seed in recipe.seeds for variant in recipe.variants]

    def _chain(self, variant: Variant, seed: int) -> Chain:
        recipe, inputs = self._recipe, self._inputs
        ratio = recipe.streams.user.ratio if variant.ratio is None else variant.ratio
        user, held_out = inputs.upload(ratio, seed)
        nodes: list[Node] = []
        if variant.alignment.method != "none":
            spec = self._training_spec(variant.alignment, inputs.safe, recipe.seed)
            self._add(nodes, "alignment", spec)
        if variant.finetuning.method != "none":
            spec = self._training_spec(variant.finetuning, user, seed, stage="finetuning")
            self._add(nodes, "finetuning", spec)
        for choice in variant.posttuning:
            self._add(nodes, "posttuning", self._repair_spec(choice, held_out))
        aligned = [node for node in nodes if node.stage == "alignment"]
        self._add(nodes, "evaluation", self._evaluation_spec())
        if inputs.help is not None:
            self._add(aligned, "evaluation", self._evaluation_spec())
        return Chain(variant, seed, nodes, aligned[-1] if inputs.help is not None else None)

    def _add(self, nodes: list[Node], stage: str, spec: dict[str, Any]) -> None:
        """Append a node; its key covers its parent's key and leaves file locations out."""
        parent = nodes[-1].key if nodes else None
        identity = {
            "stage": stage,
            "parent": parent or _model_identity(self._model),
            "versions": code_versions(),
            **{name: _identity(value) for name, value in spec.items()},
        }
        node = Node(stage, key_of(identity), parent, spec | {"model": self._model})
        self.nodes.setdefault(node.key, node)
        nodes.append(self.nodes[node.key])

    def _common(self) -> dict[str, Any]:
        recipe = self._recipe
        return {"precision": recipe.precision, "template": recipe.template, "threads": recipe.threads}

    def _training_spec(self, choice: Choice, rows: Stored, seed: int, stage: str = "alignment") -> dict[str, Any]:
        recipe, needed = self._recipe, method(choice.method).streams
        streams = {name: getattr(self._inputs, name) for name in needed}
        return self._common() | {
            "defense": choice.model_dump(),
            "rows": rows,
            "streams": streams,
            "training": getattr(recipe, stage).model_dump(),
            "adapter": recipe.adapter,
            "lora": recipe.lora.model_dump(),
            "max_length": recipe.max_length,
            "seed": seed,
        }

    def _repair_spec(self, choice: Choice, held_out: Stored | None) -> dict[str, Any]:
        needed = method(choice.method).streams
        return self._common() | {
            "defense": choice.model_dump(),
            "streams": {name: getattr(self._inputs, name) for name in needed},
            "held_out": held_out,
            "max_length": self._recipe.max_length,
        }

    def _evaluation_spec(self) -> dict[str, Any]:
        evaluation, inputs = self._recipe.evaluation, self._inputs
        return self._common() | {
            "prompts": inputs.evaluation,
            "test": inputs.test,
            "look_alikes": inputs.look_alikes,
            "help": inputs.help,
            "check": None if evaluation.help is None else evaluation.help.check,
            "task": evaluation.task.model_dump(exclude={"rows"}),
            "judge": evaluation.judge.model_dump(),
            "max_new_tokens": evaluation.max_new_tokens,
            "batch_size": evaluation.batch_size,
        }


def _identity(value: Any) -> Any:
    if isinstance(value, Stored):
        return value.sha256
    if isinstance(value, dict):
        return {name: _identity(inner) for name, inner in value.items()}
    return value


def _model_identity(location: str) -> Any:
    """Hashes of a local model's files; the name of a hub model."""
    folder = Path(location).expanduser()
    if not folder.is_dir():
        return location
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".jinja"))
    if not any(path.suffix == ".safetensors" for path in files):
        raise RecipeError(f"{folder} holds no .safetensors weights; save the model with save_pretrained")
    return {path.name: _hashed(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files}


@functools.cache
def _hashed(path: Path, size: int, changed: int) -> str:
    """SHA-256 of a file, computed anew only when its size or time of change differs."""
    return file_hash(path)
