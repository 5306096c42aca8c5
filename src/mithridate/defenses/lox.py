"""LoX: extrapolate along the main directions of what alignment did to the weights.

Perin, Chen, Chen, Hirata, Wang, Hong. "LoX: Low-Rank Extrapolation Robustifies LLM Safety Against Fine-tuning",
COLM 2025, arXiv 2506.15606.

    W = W_tuned + c·Δ_k,   Δ = W_aligned − W_base = Σ_i σ_i·u_i·v_iᵀ,   Δ_k = Σ_{i ≤ k} σ_i·u_i·v_iᵀ

for every linear layer of the decoder blocks. Cost: no pass; two more models in memory, and for every matrix the
eigenvectors of its smaller Gram matrix, the cube of its smaller side. ``strength="auto"`` takes the largest c within
the budgets. k must be tuned: it decides what counts as alignment, and no default fits all models.

`lox_alignment` is the paper's own place: plain SFT on safe rows, then W_aligned + c·Δ_k, before the user's data. On an
adapter Δ = scale·B·A, so Δ_k = scale·(P_k·B)·A with P_k onto the top k left singular vectors.

Differences. From the paper: `lox` adds Δ_k after fine-tuning instead. There k is the least one that keeps the aligned
model safe; here it is a setting. Embeddings, norms and head are left alone. From the authors' code: Δ_k comes from a
Gram matrix in float64, exact down to singular values of about 1e-8 of the largest, where a randomized SVD is not; the
weights are those with LoRA merged.
"""

from functools import cache

import torch
from peft import PeftModel
from pydantic import Field
from torch import Tensor

from mithridate.defenses.registry import register
from mithridate.errors import DefenseError
from mithridate.models.adapter_layers import has_lora, plain_lora_layers
from mithridate.models.decoder import layer_of
from mithridate.models.linear_algebra import low_rank, low_rank_factors
from mithridate.models.lora import is_factor, matching_a
from mithridate.repair.post_tuning import Dose, Repair
from mithridate.repair.repair_inputs import RepairInputs
from mithridate.repair.repaired import Repaired
from mithridate.repair.rewriting import WeightPath
from mithridate.training.defense import Defense, Finished
from mithridate.training.gradient import Gradient
from mithridate.training.step import Step
from mithridate.training.step_rows import Memory
from mithridate.training.trainable_weights import Weights


@register(
    "lox",
    stage="posttuning",
    paper="LoX (Perin et al., COLM 2025, arXiv 2506.15606)",
    forward=0,
    backward=0,
    off={"strength": 0.0},
    references=("base", "aligned"),
    extra="an eigendecomposition per matrix",
)
class LoX(Repair):
    """LoX: W + c·top-k SVD of (W_aligned − W_base)  (no pass).

    Attributes:
        strength: c, or ``"auto"`` for the largest one within the budgets.
        rank: k, number of singular directions.
    """

    dose = "strength"
    by_shard = True

    strength: Dose = 1.25
    rank: int = Field(default=6, ge=1)

    def change(self, inputs: RepairInputs) -> Repaired:
        """Move every linear layer in place; LoRA is merged where weights move."""
        if self.strength == 0:
            return Repaired(changed=0, distance=0.0)
        tuned, aligned, base = inputs.merged_weights("aligned", "base")

        def factored(name: str) -> tuple[Tensor, Tensor]:
            return low_rank_factors(aligned.change_from(base, name), self.rank)

        # A search asks for them at every dose. As two thin factors: whole matrices would be another model in memory.
        factors = cache(factored) if self.strength == "auto" else factored

        def moved(name: str, theta: Tensor, c: float) -> Tensor:
            left, right = factors(name)
            return theta + c * tuned.turned(name, left @ right).to(theta)

        path = WeightPath(tuned, list(tuned.matrices), moved)
        curve = self.search(inputs, "strength", STRENGTHS, path.dosed) if self.strength == "auto" else None
        c = curve.chosen if curve else float(self.strength)
        return path.apply(c).repaired({"strength": c, "matrices": len(tuned.matrices)}, curve)


@register(
    "lox_alignment",
    stage="alignment",
    paper="LoX (Perin et al., COLM 2025, arXiv 2506.15606)",
    forward=1,
    backward=1,
    off={"strength": 0.0},
    references=("start",),
    extra="an eigendecomposition per matrix at the end",
    vectors=1,
)
class LoXAlignment(Defense):
    """LoX, before fine-tuning: plain SFT, then W + c·top-k SVD of what it changed  (1 pass).

    Attributes:
        strength: c.
        rank: k, number of singular directions.
    """

    strength: float = Field(default=1.25, ge=0)
    rank: int = Field(default=6, ge=1)

    def start(self, step: Step) -> None:
        """An adapter must be a plain LoRA that starts at zero, so that B·A is what alignment did."""
        if self.strength == 0:
            return
        if has_lora(step.model):
            plain_lora_layers(step.model)
        elif isinstance(step.model, PeftModel):
            raise DefenseError("LoX extrapolates LoRA or whole weights, and this adapter is neither; use one of them")
        self._refuse_used(step.weights)

    def gradient(self, step: Step) -> Gradient:
        """Return the gradient of the safe rows."""
        return step.gradient("safe")

    @torch.no_grad()
    def finish(self, weights: Weights, memory: Memory) -> Finished:
        """Extrapolate every matrix of the decoder blocks, or B of its adapter: B + c·P_k·B with P_k from B·A."""
        if self.strength == 0:
            return Finished()
        self._refuse_used(weights)
        square = 0.0
        now = dict(zip(weights.names, weights.parameters, strict=True))
        start = dict(zip(weights.names, weights.start, strict=True))
        for name, weight in now.items():
            # Matrix by matrix, since a copy of all of them would be as large as the weights.
            before = weight.clone()
            first = matching_a(name)
            if first is not None:
                # The scale of B·A does not matter to its singular vectors.
                product = weight.double() @ now[first].double()
                # P_k·(B·A) = (P_k·B)·A, so that only B moves and the rank stays.
                left = torch.linalg.svd(product, full_matrices=False).U[:, : self.rank]
                weight += self.strength * (left @ (left.T @ weight.double())).to(weight)
            elif layer_of(name) is not None and weight.dim() == 2 and not is_factor(name):
                weight += self.strength * low_rank(weight - start[name], self.rank).to(weight)
            else:
                continue
            square += float((weight.double() - before.double()).square().sum())
        return Finished({"extrapolation_norm": square**0.5})

    def _refuse_used(self, weights: Weights) -> None:
        named = zip(weights.names, weights.start, strict=True)
        # B = 0 at the start means that all of B·A is what alignment did.
        used = any(matching_a(name) is not None and bool(second.any()) for name, second in named)
        if self.strength and used:
            raise DefenseError("LoX extrapolates an adapter that started at zero; set `adapter: fresh`")


STRENGTHS = tuple(2.0**k for k in range(-5, 5))
"""Values of c tried by ``"auto"``."""
