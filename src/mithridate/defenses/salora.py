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

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from mithridate.defenses.registry import register
from mithridate.errors import DefenseError
from mithridate.models.adapter_layers import has_lora, plain_lora_layers
from mithridate.models.lora import LoraFactors, matching_a
from mithridate.training.defense import Defense, Finished, StreamPasses
from mithridate.training.gradient import Gradient
from mithridate.training.step import Step
from mithridate.training.step_rows import Memory
from mithridate.training.trainable_weights import Weights


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

    def passes_over(self, main: str) -> list[StreamPasses]:
        """Return the pass over the user's rows, whose adapter outputs are projected."""
        return [StreamPasses(main, 1, 1, projected=self.directions)]

    def start(self, step: Step) -> None:
        """A starts from the right singular directions of U·Uᵀ·W, U of W·X_task; V are the directions of W·X_safe."""
        if not self.directions and not self.task_rank:
            return
        if not has_lora(step.model):
            raise DefenseError("SaLoRA projects a LoRA adapter, and the model has none; pass peft_config")
        loras = plain_lora_layers(step.model)
        layers = {lora.name: lora.base for lora in loras}
        if self.task_rank:
            for lora in loras:
                with step.whole(lora.module):
                    self._refuse_unfit(lora)
            for lora, u in zip(loras, step.output_directions(layers, "user", self.task_rank), strict=True):
                with step.whole(lora.module):
                    _start_in(lora, u)
        if self.directions:
            # After A was set: B is zero, so the model and its outputs are still the same.
            spans = step.output_directions(layers, step.first("safe", self.rows), self.directions)
            # In float32, as a checkpoint restores them, for the same bits after a resume.
            step.memory["spans"] = [v.float().contiguous() for v in spans]

    def gradient(self, step: Step) -> Gradient:
        """Return the gradient of the user's rows through the projected adapter."""
        step.log(directions=sum(v.shape[1] for v in step.memory.get("spans", [])))
        with self.applied(step.model, step.memory):
            return step.gradient("user")

    @contextmanager
    def applied(self, model: nn.Module, memory: Memory) -> Iterator[None]:
        """Inside the block every B·A·x is (I − V·Vᵀ)·B·A·x."""
        spans: list[Tensor] = memory.get("spans", [])
        loras = plain_lora_layers(model) if spans else []
        hooks = [lora.second.register_forward_hook(_projecting(v)) for lora, v in zip(loras, spans, strict=True)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def finish(self, weights: Weights, memory: Memory) -> Finished:
        """B ← (I − V·Vᵀ)·B in place of the projection."""
        spans = memory.get("spans", [])
        if not spans:
            return Finished()
        before = weights.snapshot()
        # Weights and layers are both in the model's order, so that each B meets its own layer's V.
        second = [b for name, b in zip(weights.names, weights.parameters, strict=True) if matching_a(name) is not None]
        for b, v in zip(second, spans, strict=True):
            b.copy_(_projected(b.double(), v.to(b.device).double()))
        return Finished({"removed_norm": weights.moved_since(before).distance})

    def _refuse_unfit(self, lora: LoraFactors) -> None:
        a, b = lora.factors
        if bool(b.any()):
            raise DefenseError("SaLoRA's start needs a fresh adapter, whose B is zero; use a new one, or task_rank=0")
        if not len(a) <= self.task_rank < len(b):
            raise DefenseError(
                f"task_rank={self.task_rank} must be at least the adapter's rank {len(a)} and below the "
                f"{len(b)} outputs of {lora.name}"
            )


@torch.no_grad()
def _start_in(lora: LoraFactors, u: Tensor) -> None:
    """A ← the top right singular directions of U·Uᵀ·W."""
    a, _ = lora.factors
    right = torch.linalg.svd(u @ (u.T @ lora.base_matrix.double())).Vh[: len(a)]
    largest = right.gather(1, right.abs().argmax(dim=1, keepdim=True))
    a.copy_(right * largest.sign())  # a singular vector's sign is left open; its largest entry is made positive


def _projected(b: Tensor, v: Tensor) -> Tensor:
    """(I − V·Vᵀ)·B."""
    return b - v @ (v.T @ b)


def _projecting(v: Tensor) -> Any:
    """Forward hook of B: y ← (I − V·Vᵀ)·y, with outputs as rows."""

    def hook(layer: nn.Module, args: Any, y: Tensor) -> Tensor:
        span = v.to(y)
        # As yᵀ·V·Vᵀ: the other order would multiply one row of the batch after the other.
        return y - (y @ span) @ span.T

    return hook
