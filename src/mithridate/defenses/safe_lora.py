"""SafeLoRA: layers whose update leaves the direction of alignment are projected onto it.

Hsu, Tsai, Lin, Chen, Yu, Huang. "Safe LoRA: the Silver Lining of Reducing Safety Risks when Fine-tuning Large Language
Models", NeurIPS 2024, arXiv 2405.16833.

    V = W_aligned − W_base,   C = V·Vᵀ/‖V‖_F,   Δ = W_tuned − W_aligned
    W_tuned ← W_aligned + C·Δ   where  cos(C·Δ, Δ) ≤ τ

for every linear layer of the decoder blocks; with a fresh adapter Δ = scale·B·A, and C·Δ is the paper's (C·B)·A.
Instead of τ, `layers` = k takes the k linear layers with the lowest cosine. Cost: no pass; two more models in memory.

C is no projector: C·C ≠ C, and C grows with ‖V‖_F (V ten times as long gives C ten times as large). So a layer's
update is rescaled as well as turned, mostly shrunk, since ‖V‖_F is small. A true projector onto the columns of V is
not offered: a V that went through rounding has full rank, and such a projector would change nothing.

Differences. From the paper: none in the rule. From the authors' code: `layers` ranks the tuned layers themselves (there
those under a threshold of 0.3 are projected before they are ranked); layers are matched by full name, not by part of
one; Δ is the effective update, so full fine-tuning and a continued adapter work as well; LoRA is merged where a layer
is projected. Layers that alignment or fine-tuning did not touch (V = 0 or Δ = 0) are left alone.
"""

from typing import Self

from pydantic import Field, model_validator
from torch import Tensor

from mithridate.defenses.registry import register
from mithridate.errors import DefenseError
from mithridate.models.merged_weights import MergedWeights
from mithridate.repair.post_tuning import Repair
from mithridate.repair.repair_inputs import RepairInputs
from mithridate.repair.repaired import Repaired
from mithridate.repair.rewriting import Rewrite

THRESHOLD = 0.5
"""The paper's τ."""


@register(
    "safe_lora",
    stage="posttuning",
    paper="SafeLoRA (Hsu et al., NeurIPS 2024, arXiv 2405.16833)",
    forward=0,
    backward=0,
    off={"threshold": -1.0},
    references=("base", "aligned"),
)
class SafeLoRA(Repair):
    """SafeLoRA: Δ ← V·Vᵀ/‖V‖·Δ where its cosine with Δ is at most τ  (no pass).

    Attributes:
        threshold: τ; 0.5 if neither it nor ``layers`` is given.
        layers: Number of linear layers to project, those with the lowest cosine; exclusive with ``threshold``.
    """

    by_shard = True

    threshold: float | None = Field(default=None, ge=-1, le=1)
    layers: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if self.threshold is not None and self.layers is not None:
            raise ValueError("give threshold (cosine up to which layers are projected) or layers (their number)")
        return self

    def change(self, inputs: RepairInputs) -> Repaired:
        """Project the chosen layers in place; LoRA on them is merged."""
        # ⟨C·Δ, Δ⟩ = ‖Vᵀ·Δ‖²/‖V‖ ≥ 0, so that no layer lies below.
        if self.threshold is not None and self.threshold < 0:
            return Repaired(changed=0, distance=0.0)
        tuned, aligned, base = inputs.merged_weights("aligned", "base")
        rewrite = Rewrite(tuned)
        # Which layers have the lowest cosines is known only when all of them are; a threshold asks for no other layer.
        lowest = self._lowest(tuned, aligned, base) if self.layers is not None else None
        for name in tuned.each(list(tuned.matrices), rewrite.tally):
            safe, v, delta = updates(tuned, aligned, base, name)
            # Without either there is no direction to compare.
            if not v.any() or not delta.any():
                continue
            projected = project(v, delta)
            found = cosine(projected, delta)
            chosen = found <= self._threshold if lowest is None else name in lowest
            rewrite.tally.figures[name] = {"cosine": found, "projected": float(chosen)}
            if chosen:
                rewrite.put(name, tuned.read(name), tuned.turned(name, safe + projected))
        compared = [rewrite.tally.figures[name] for name in tuned.matrices if name in rewrite.tally.figures]
        if not compared:
            raise DefenseError(_NOTHING)
        return rewrite.repaired(
            {
                "layers_projected": int(sum(figures["projected"] for figures in compared)),
                "layers_compared": len(compared),
                "cosine_mean": sum(figures["cosine"] for figures in compared) / len(compared),
            }
        )

    @property
    def _threshold(self) -> float:
        return THRESHOLD if self.threshold is None else self.threshold

    def _lowest(self, tuned: MergedWeights, aligned: MergedWeights, base: MergedWeights) -> set[str]:
        cosines: dict[str, float] = {}
        for name in tuned.matrices:
            _, v, delta = updates(tuned, aligned, base, name)
            if v.any() and delta.any():
                cosines[name] = cosine(project(v, delta), delta)
        return set(sorted(cosines, key=lambda name: cosines[name])[: self.layers])


_NOTHING = (
    "no linear layer was changed both by alignment and by fine-tuning, so there is nothing to project; "
    "check aligned= and base="
)


def updates(
    tuned: MergedWeights, aligned: MergedWeights, base: MergedWeights, name: str
) -> tuple[Tensor, Tensor, Tensor]:
    """W_aligned, V and Δ, each (outputs, inputs), float64."""
    return aligned.matrix(name), aligned.change_from(base, name), tuned.change_from(aligned, name)


def project(v: Tensor, delta: Tensor) -> Tensor:
    """C·Δ = V·Vᵀ·Δ/‖V‖_F, by the smaller of the two products."""
    product: Tensor = (v @ v.T) @ delta if v.shape[0] <= v.shape[1] else v @ (v.T @ delta)
    return product / float(v.norm())


def cosine(first: Tensor, second: Tensor) -> float:
    """Return the cosine of two matrices as vectors; 0 where one of them is zero."""
    norms = float(first.norm() * second.norm())
    return float((first * second).sum()) / norms if norms else 0.0
