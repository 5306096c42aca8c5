"""Constrained SFT: learn each token only as far as it is not yet likelier than before.

Qi, Panda, Lyu, Ma, Roy, Beirami, Mittal, Henderson. "Safety alignment should be made more than just a few tokens deep",
ICLR 2025, arXiv 2406.05946.

    loss = mean_t −(2/β_t)·log σ(β_t·log(π(y_t)/π_0(y_t))),   so that   g = ∇ mean_t v_t·(−log π(y_t))
    v_t  = 2·(1 − σ(β_t·log(π(y_t)/π_0(y_t)))) ≥ floor,       without gradient

with π_0 the model before fine-tuning. β is large on the first tokens of an answer, which decide whether it refuses.
Cost: 2 forward passes (one without gradient) and 1 backward pass.

Differences from the released code: reference likelihoods are computed every step, not once beforehand (nothing is
stored, and nothing can go stale); accumulation is tested, where the authors' README says that theirs is not. The paper
also sets Adam's β1 to 0.5 and warms up for 10 steps; set those in `SFTConfig`.
"""

import torch
from pydantic import Field
from torch import Tensor

from mithridate.defenses.registry import register
from mithridate.training.defense import Defense
from mithridate.training.gradient import Gradient
from mithridate.training.scored_rows import LossShare, ScoredRows
from mithridate.training.step import Step


@register(
    "constrained_sft",
    stage="finetuning",
    paper="Constrained SFT (Qi et al., ICLR 2025, arXiv 2406.05946)",
    references=("start",),
    forward=2,
    backward=1,
    off={"first": 0.0, "early": 0.0, "rest": 0.0},
    vectors=1,
)
class ConstrainedSFT(Defense):
    """Constrained SFT: tokens weighted by 2·(1 − σ(β_t·log(π/π₀)))  (2 forward, 1 backward).

    Attributes:
        first: β of an answer's first token.
        early: β of its tokens 2 to 5.
        rest: β of the tokens after.
        floor: Smallest weight of a token.
    """

    first: float = Field(default=0.5, ge=0)
    early: float = Field(default=2.0, ge=0)
    rest: float = Field(default=0.1, ge=0)
    floor: float = Field(default=1e-3, ge=0, le=1)

    def gradient(self, step: Step) -> Gradient:
        """Return the gradient of the paper's Eq. 3."""
        seen: list[float] = []

        def loss(rows: ScoredRows) -> LossShare:
            weights = self._weights(rows)
            seen.append(float(weights[rows.mask].sum()))
            return rows.per_token(-weights * rows.log_probs)

        gradient = step.gradient("user", loss=loss, reference=True)
        step.log(token_weight=sum(map(sum, step.gather(seen))) / step.totals("user").tokens)
        return gradient

    @torch.no_grad()
    def _weights(self, rows: ScoredRows) -> Tensor:
        """(rows, tokens − 1) v_t."""
        # 1 at the completion's first token, 2 at its second, and so on.
        place = rows.mask.cumsum(dim=1)
        beta = torch.full_like(rows.log_probs, self.rest)
        # The first token is early as well, so it is set last.
        beta = beta.masked_fill(place <= EARLY, self.early).masked_fill(place <= 1, self.first)
        ratio = rows.log_probs - rows.reference.log_probs
        return (2 * torch.sigmoid(-beta * ratio)).clamp(min=self.floor)


EARLY = 5
"""Tokens of an answer that count as early."""
