"""SafeGrad: take out of the user's gradient what works against alignment.

Yi, Li, Zhang, Nie, Li, Huang, Liu. "Gradient surgery for safe LLM fine-tuning", arXiv 2508.07172.

    u = ∇L(w),  a = ∇KL(π_0 ‖ π) on safe rows
    g = u − min(0, ⟨u, a⟩)/‖a‖²·a + ρ·a

with π_0 the model before fine-tuning and KL the mean over answer tokens. Cost: 3 forward passes (one without
gradient) and 2 backward passes.

Difference. From the paper none is known; the authors' code was not seen.
"""

from pydantic import Field
from torch import Tensor

from mithridate.defenses.registry import register
from mithridate.models.token_chunks import by_tokens
from mithridate.training.defense import Defense
from mithridate.training.gradient import Gradient
from mithridate.training.scored_rows import LossShare, ScoredRows
from mithridate.training.step import Step


@register(
    "safegrad",
    stage="finetuning",
    paper="SafeGrad (Yi et al., arXiv 2508.07172)",
    streams=("safe",),
    references=("start",),
    forward=3,
    backward=2,
    off={"strength": 0.0, "project": False},
    vectors=2,
    precise=True,
)
class SafeGrad(Defense):
    """SafeGrad: g = u − min(0, ⟨u,a⟩)/‖a‖²·a + ρ·a, with a = ∇KL(π₀‖π) on safe rows  (3 forward, 2 backward).

    Attributes:
        strength: ρ.
        project: Whether the conflicting part of the user's gradient is taken out.
    """

    never_kept = "what is taken out of a step's gradient is found with the alignment gradient at the same weights"

    strength: float = Field(default=1.0, ge=0)
    project: bool = True

    def gradient(self, step: Step) -> Gradient:
        """Projection, then the alignment term."""
        user = step.gradient("user")
        with step.precise():  # near w_0 the divergence is the square of a small move, and half precision all noise
            align = step.gradient("safe", loss=_divergence, logits=True, reference=True)
        inner = user.dot(align)
        # A positive inner product means that the user's step also serves alignment.
        conflict = self.project and inner < 0
        step.log(conflict=conflict, alignment_gradient_norm=align.norm())
        if conflict:
            user = user - inner / align.dot(align) * align
        return user + self.strength * align


def _divergence(rows: ScoredRows) -> LossShare:
    """KL(π_0 ‖ π) over the vocabulary, mean over answer tokens, by its slope π − π_0 in the logits.

    The slope is zero to the bit where the model has not moved. Differentiating the divergence itself leaves rounding
    there, and the projection, which knows no size, would take a random direction out of the first step.
    """
    now, before = rows.logits[rows.mask], rows.reference.logits[rows.mask]
    return rows.per_token(by_tokens(_sloped, now.shape[-1], now, before))


def _sloped(now: Tensor, before: Tensor) -> Tensor:
    """(tokens,) of logits (tokens, vocabulary)."""
    slope = now.detach().softmax(dim=-1) - before.softmax(dim=-1)
    return (slope * now).sum(dim=-1)
