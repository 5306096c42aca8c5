"""BDS: learn a weight for every user row by Langevin steps, pulled by the safe rows.

Hu, Shen, Wang, Wei, Tao. "Bayesian data scheduler", NeurIPS 2025, arXiv 2510.27172.

Every step, with s = softmax of the step's row scores w_i and ℓ_i the mean token loss of row i:

    g   = λ·∇f(w) + ∇ Σ_i s_i·NLL_i / Σ_i s_i·|y_i|
    w_i ← w_i − η·n·s_i·(ℓ_i − Σ_j s_j·ℓ_j) + √(2·η·T)·N(0, 1)

with f the loss of safe answers and n the rows of the step. A row that stays unlikely while the safe rows are learned
loses weight; no label and no threshold is used. Cost: 2 forward and 2 backward passes.

Differences. From the released code: the softmax is over the step's rows, not over all rows of the upload, so the step
size does not depend on the upload's size; η moves plain scores where the code's optimizer is Adam; its priors on the
weights and the small scoring network of the paper's amortized form are not here. Like the code, no noise by default.
"""

import torch
from pydantic import Field
from torch import Tensor

from mithridate.defenses.registry import register
from mithridate.training.defense import Defense
from mithridate.training.gradient import Gradient
from mithridate.training.row_weights import RowShares
from mithridate.training.step import Step


@register(
    "bds",
    stage="finetuning",
    paper="BDS (Hu et al., NeurIPS 2025, arXiv 2510.27172)",
    streams=("safe",),
    forward=2,
    backward=2,
    off={"strength": 0.0, "rate": 0.0},
    vectors=1,
)
class BDS(Defense):
    """BDS: g = λ·∇f + ∇ of the user's loss under learned row weights softmax(w)  (2 passes).

    Attributes:
        strength: λ, weight of the safe rows' loss.
        rate: η, step size of the row scores.
        noise: T, temperature of the Langevin noise.
    """

    strength: float = Field(default=1.0, ge=0)
    rate: float = Field(default=0.5, ge=0)
    noise: float = Field(default=0.0, ge=0)

    def gradient(self, step: Step) -> Gradient:
        """Weighted step, then the step of the weights."""
        if "scores" not in step.memory:
            step.memory["scores"] = torch.zeros(step.clock.rows, dtype=torch.float64)
        scores: Tensor = step.memory["scores"]
        # Scores live in main memory in float64, where a checkpoint finds them.
        tuned = step.gradient("user", log_weights=lambda rows: scores[rows.row.cpu()].to(rows.nll.device))
        assert tuned.row_shares is not None
        step.memory["scores"] = self._scheduled(scores, tuned.row_shares, step)
        extra = self.strength * step.gradient("safe")
        step.log(extra_gradient_norm=extra.norm(), weight_max=max(tuned.row_shares.relative()))
        return tuned + extra

    def _scheduled(self, scores: Tensor, shares: RowShares, step: Step) -> Tensor:
        """Take one Langevin step of the scores of the rows in the batch."""
        mean = sum(share * loss for share, loss in zip(shares.shares, shares.losses, strict=True))
        scores = scores.clone()
        for row, share, loss in zip(*shares, strict=True):
            # Per row, so that the noise does not depend on how the step is cut.
            kick = torch.randn((), generator=step.generator(f"row {row}"), dtype=torch.float64)
            scores[row] += (2 * self.rate * self.noise) ** 0.5 * kick
            # ∂/∂w_i of Σ_j s_j·ℓ_j is s_i·(ℓ_i − Σ_j s_j·ℓ_j).
            scores[row] -= self.rate * len(shares.rows) * share * (loss - mean)
        return scores
