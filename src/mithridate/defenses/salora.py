"""SaLoRA: an adapter that cannot write into the directions safety needs.

Li, Si, Backes, Zhang, Wang. "SaLoRA", ICLR 2025, arXiv 2501.01765.

    y = W·x + scale·(I − V·Vᵀ)·B·A·x

with V the top k left singular directions of W·X_safe, X_safe the inputs of the layer on the provider's safe rows. A
starts inside the task: from the top right singular directions of U·Uᵀ·W, with U those of W·X_task. Training is plain
SFT. Cost: 1 forward and 1 backward pass, and once the safe rows and one batch of the user's.

At the end B becomes (I − V·Vᵀ)·B, so that what is saved is an ordinary LoRA adapter.

Differences from the authors' code: B starts from zero, so that the model is unchanged before the first step and the
base weights stay as they are (there B starts from the same singular vectors and their product is taken out of W);
rows of A have length 1; the task's directions are those of the first step's rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from mithridate.defenses.base import Defense
from mithridate.defenses.registry import register
from mithridate.errors import DefenseError
from mithridate.repair.structure import partner
from mithridate.repair.target import Lora, has_lora, is_transposed, products
from mithridate.training.activations import captured
from mithridate.training.batch import Batch
from mithridate.training.draws import Memory
from mithridate.training.gradient import Gradient
from mithridate.training.likelihood import evaluating
from mithridate.training.step import Step
from mithridate.training.weights import Finished, Weights


@register(
    "salora",
    stage="finetuning",
    paper="SaLoRA (Li et al., ICLR 2025, arXiv 2501.01765)",
    streams=("safe",),
    forward=1,
    backward=1,
    off={"directions": 0, "task_rank": 0},
    extra="once 128 safe rows and a batch",
)
class SaLoRA(Defense):
    """SaLoRA: ΔW = (I − V·Vᵀ)·B·A, V the layer's top output directions on safe rows  (1 pass, once the rows).

    Attributes:
        directions: k, output directions of each layer that stay untouched.
        rows: Safe rows they are measured on, the first of the stream.
        task_rank: Directions of the task that A starts in, at least the adapter's rank; 0 leaves A as it is.
    """

    directions: int = Field(default=32, ge=0)
    rows: int = Field(default=128, ge=1)
    task_rank: int = Field(default=32, ge=0)

    def start(self, step: Step) -> None:
        """Where A starts, and V."""
        model = step.likelihood.model
        if (self.directions or self.task_rank) and not has_lora(model):
            raise DefenseError("SaLoRA projects a LoRA adapter, and the model has none; pass peft_config")
        if self.task_rank:
            _start_in_task(step, products(model), self.task_rank)
        if self.directions:
            loras = products(model)
            grams = _grams(step, loras, step.batches(step.first("safe", self.rows)))
            step.memory["spans"] = [
                _top(gram, self.directions, lora.name) for gram, lora in zip(grams, loras, strict=True)
            ]

    def gradient(self, step: Step) -> Gradient:
        """The gradient of the user's rows through the projected adapter."""
        step.log(directions=sum(span.shape[1] for span in step.memory.get("spans", [])))
        with self.applied(step.likelihood.model, step.memory):
            return step.gradient("user")

    @contextmanager
    def applied(self, model: nn.Module, memory: Memory) -> Iterator[None]:
        """Inside the block every B·A·x loses its part in the span of V."""
        spans: list[Tensor] = memory.get("spans", [])
        loras = products(model) if spans else []
        hooks = [(lora.second, _projecting(span)) for lora, span in zip(loras, spans, strict=True)]
        handles = [factor.register_forward_hook(hook) for factor, hook in hooks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def finish(self, weights: Weights, memory: Memory) -> Finished:
        """B ← (I − V·Vᵀ)·B in place of the projection."""
        spans = memory.get("spans", [])
        if not spans:
            return Finished()
        named = zip(weights.names, weights.parameters, strict=True)
        second = [p for name, p in named if partner(name) is not None]
        removed = 0.0
        for factor, span in zip(second, spans, strict=True):
            b, v = factor.double(), span.to(factor.device).double()
            held = v @ (v.T @ b)
            removed += float(held.square().sum())
            factor.copy_(b - held)
        return Finished({"removed_norm": removed**0.5})


def _projecting(span: Tensor) -> Any:
    """Forward hook of B: y ← (I − V·Vᵀ)·y."""

    def hook(_: nn.Module, args: Any, output: Tensor) -> Tensor:
        v = span.to(output)
        return output - (output @ v) @ v.T

    return hook


def _grams(step: Step, loras: Sequence[Lora], own: Iterable[Batch]) -> list[Tensor]:
    """Σ over tokens of (W·x)(W·x)ᵀ for each layer, (outputs, outputs) float64, over all processes."""
    layers = [lora.module.get_base_layer() for lora in loras]
    sizes = [(lora.second.weight.shape[0], lora.second.weight.device) for lora in loras]
    sums = [torch.zeros(size, size, dtype=torch.float64, device=device) for size, device in sizes]
    with evaluating(step.likelihood.model), torch.no_grad():
        for batch in own:
            with captured(layers) as outputs:
                real = step.likelihood.score(batch).real
            for place, (layer, y) in enumerate(zip(layers, outputs, strict=True)):
                y = y.reshape(*real.shape, -1)[real].double() - (0 if layer.bias is None else layer.bias.double())
                sums[place] += y.T @ y
    return [step.sum(total) for total in sums]


def _top(gram: Tensor, directions: int, name: str) -> Tensor:
    """(outputs, directions) eigenvectors of the largest eigenvalues, float32."""
    if directions >= len(gram):
        raise DefenseError(
            f"{name} has {len(gram)} outputs, so {directions} directions leave nothing to tune; lower it"
        )
    if not bool(gram.isfinite().all()):
        raise DefenseError(f"the outputs of {name} are not finite; check the weights")
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors[:, -directions:]
    return vectors.float().contiguous()  # as a checkpoint gives it back, for the same bits after a resume


@torch.no_grad()
def _start_in_task(step: Step, loras: Sequence[Lora], rank: int) -> None:
    """A ← top right singular directions of U·Uᵀ·W, U the top output directions on this step's rows."""
    for lora, gram in zip(loras, _grams(step, loras, step.batches("user")), strict=True):
        if bool(lora.second.weight.any()):
            raise DefenseError("SaLoRA's start needs a fresh adapter, whose B is zero; use a new one, or task_rank=0")
        if not len(lora.first.weight) <= rank < len(gram):
            raise DefenseError(
                f"task_rank={rank} must be at least the adapter's rank {len(lora.first.weight)} and below the "
                f"{len(gram)} outputs of {lora.name}"
            )
        layer = lora.module.get_base_layer()
        span = _top(gram, rank, lora.name).double()
        weight = (layer.weight.T if is_transposed(layer) else layer.weight).double()
        right = torch.linalg.svd(span @ (span.T @ weight)).Vh[: len(lora.first.weight)]
        largest = right.gather(1, right.abs().argmax(dim=1, keepdim=True))
        lora.first.weight.copy_(right * largest.sign())
