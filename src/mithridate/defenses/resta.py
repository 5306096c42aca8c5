"""RESTA: add what alignment did to the weights once more.

Bhardwaj, Do, Poria. "Language Models are Homer Simpson! Safety Re-Alignment of Fine-tuned Language Models through Task
Arithmetic", ACL 2024, arXiv 2402.11746.

    θ = θ_tuned + γ·v,   v = θ_aligned − θ_base    over all weights

With DARE (Yu et al., "Language Models are Super Mario", ICML 2024, arXiv 2311.03099), d > 0, first:

    θ_tuned ← θ_aligned + m/(1 − d)·(θ_tuned − θ_aligned),   m_i = 0 with probability d, else 1

which keeps the mean of the task's update. Cost: no pass; two more models in memory. ``strength="auto"`` takes the
largest γ within the budgets, DARE included.

Differences. From the paper: v is the difference of the models before and after the provider's alignment; the paper
makes its own by tuning the model on harmful rows and negating that. Weights are those with LoRA merged. We have
not seen the authors' code; γ = 1 is a later replication's. m is drawn on the CPU, so a GPU gives the same one.
"""

import zlib

import torch
from pydantic import Field
from torch import Tensor

from mithridate.defenses.registry import register
from mithridate.repair.post_tuning import Dose, Repair
from mithridate.repair.repair_inputs import RepairInputs
from mithridate.repair.repaired import Repaired
from mithridate.repair.rewriting import RowPath, WeightPath


@register(
    "resta",
    stage="posttuning",
    paper="RESTA (Bhardwaj et al., ACL 2024, arXiv 2402.11746)",
    forward=0,
    backward=0,
    off={"strength": 0.0, "drop": 0.0},
    references=("base", "aligned"),
)
class RESTA(Repair):
    """RESTA: θ + γ·(θ_aligned − θ_base), the task's update thinned by DARE before  (no pass).

    Attributes:
        strength: γ, or ``"auto"`` for the largest one within the budgets.
        drop: d, share of the task's update that DARE drops.
        seed: Seed of DARE's mask.
    """

    dose = "strength"
    by_shard = True

    strength: Dose = 1.0
    drop: float = Field(default=0.0, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)

    def change(self, inputs: RepairInputs) -> Repaired:
        """Move all weights in place; LoRA is merged where weights move."""
        if self.strength == 0 and self.drop == 0:
            return Repaired(changed=0, distance=0.0)
        tuned, aligned, base = inputs.merged_weights("aligned", "base")

        def moved(theta: Tensor, gamma: float, safe: Tensor, before: Tensor) -> Tensor:
            return theta + gamma * (safe - before)

        def thinned(name: str, theta: Tensor, gamma: float) -> Tensor:
            safe = aligned.read(name, theta.device)
            # DARE thins the task's update alone, before the alignment is added; its mask is drawn for a whole weight.
            kept = safe + dare(theta - safe, self.drop, self.seed, name)
            return moved(kept, gamma, safe, base.read(name, theta.device))

        names = tuned.names
        path = WeightPath(tuned, names, thinned) if self.drop else RowPath(tuned, names, moved, [aligned, base])
        curve = self.search(inputs, "strength", STRENGTHS, path.dosed) if self.strength == "auto" else None
        gamma = curve.chosen if curve else float(self.strength)
        return path.apply(gamma).repaired({"strength": gamma, "drop": self.drop}, curve)


def dare(delta: Tensor, drop: float, seed: int, name: str) -> Tensor:
    """Drop entries at random and rescale the rest by 1/(1 − d).

    Each weight has a generator of its own, seeded by the CRC-32 of ``"{seed} {name}"``, so that the mask depends on
    nothing else.
    """
    # Per weight, so that the mask does not depend on the order of the weights.
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    kept = torch.rand(delta.shape, generator=generator) >= drop
    return delta * kept.to(delta.device) / (1 - drop)


STRENGTHS = tuple(2.0**k for k in range(-5, 4))
"""γ tried by ``"auto"``."""
