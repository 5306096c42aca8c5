"""LDIFS: keep the hidden states of the user's rows where the aligned model has them.

Mukhoti, Gal, Torr, Dokania. "LDIFS", TMLR 2024, arXiv 2308.13320; for language models as in Booster's comparisons.

    g = ∇[ L(w) + (ρ/2) · mean_rows Σ_l ‖m_l(w) − m_l(w_0)‖² ]

with m_l the output of MLP l on the row's tokens and w_0 the weights before fine-tuning. Cost: 2 forward passes (one
without gradient) and 1 backward pass.

Differences. From the paper: it is on vision models and against forgetting, with normalized features and α·mean squared
distance, and claims nothing on harmful fine-tuning. From the language-model code: that drops every layer whose term is
0.1 or more, so that the drift it should stop goes unpunished; nothing is dropped here. It also differentiates the
frozen copy and clips at 5; neither is done here, and there is no second model.
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
    "ldifs",
    stage="finetuning",
    paper="LDIFS (Mukhoti et al., TMLR 2024, arXiv 2308.13320)",
    references=("start",),
    forward=2,
    backward=1,
    off={"strength": 0.0},
    vectors=1,
)
class LDIFS(Defense):
    """LDIFS: g = ∇[L + (ρ/2)·mean Σ_l ‖MLP output − aligned MLP output‖²]  (2 forward, 1 backward).

    Attributes:
        strength: ρ.
    """

    strength: float = Field(default=1e-4, ge=0)

    def gradient(self, step: Step) -> Gradient:
        """User loss and drift from one pass."""
        seen: list[float] = []

        def loss(rows: ScoredRows) -> LossShare:
            drift = _drift(rows)
            seen.append(float(drift.detach().sum()))
            return rows.per_token(rows.nll) + self.strength / 2 * rows.per_row(drift)

        gradient = step.gradient("user", loss=loss, hidden=("mlp",), reference=True)
        step.log(drift=sum(map(sum, step.gather(seen))) / step.totals("user").rows)
        return gradient


def _drift(rows: ScoredRows) -> Tensor:
    """(rows,) Σ over blocks, tokens and features of the squared change of MLP outputs."""
    pairs = zip(rows.hidden["mlp"], rows.reference.hidden["mlp"], strict=True)
    # The norm is over features and tokens, so squares are added before any mean.
    squares = torch.stack([(now - then).square().sum(dim=-1) for now, then in pairs]).sum(dim=0)
    return (squares * rows.real).sum(dim=1)
