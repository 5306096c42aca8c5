"""Deep alignment: refuse also behind the start of a harmful answer.

Qi, Panda, Lyu, Ma, Roy, Beirami, Mittal, Henderson. "Safety alignment should be made more than just a few tokens deep",
ICLR 2025, arXiv 2406.05946, the paper's data augmentation (its other half is `constrained_sft`).

    g = (1 − α)·∇f(w) + α·∇L_recovery(w),   L_recovery = −log π(refusal | x, h_≤k), per token

with f the loss of safe answers, h a harmful answer to x, and k = 0 with the probability `shallow`, else uniform from 1
to `depth`, drawn anew for every row and step. Cost: 2 forward and 2 backward passes.

Differences. From the paper: refusals are generic instead of the aligned model's own to each prompt, and the safe rows,
refusals and help, take the place of its rows of Alpaca. From the released code: α stands before a mean, where the code
joins the tokens of 4 safety rows and 16 others; the harmful start always leaves room for a refusal within the longest
row and never is the whole answer.
"""

from pydantic import Field

from mithridate.defenses.registry import register
from mithridate.training.gradient import Gradient
from mithridate.training.harmful_terms import HarmfulTerms, Terms
from mithridate.training.recovery_rows import SHALLOW, recovery_rows
from mithridate.training.step import Step


@register(
    "deep_alignment",
    stage="alignment",
    paper="Deep alignment (Qi et al., ICLR 2025, arXiv 2406.05946)",
    streams=("harmful", "refusals"),
    forward=2,
    backward=2,
    off={"strength": 0.0},
    vectors=1,
)
class DeepAlignment(HarmfulTerms):
    """Deep alignment: g = (1 − α)·∇f(w) + α·∇L(refusal behind the start of a harmful answer)  (2 passes).

    Attributes:
        strength: α, weight of the refusals.
        depth: Most tokens of the harmful answer that a refusal stands behind.
        shallow: Share of rows whose refusal stands right behind the prompt.
    """

    refused = 1

    strength: float = Field(default=0.2, ge=0, lt=1)
    depth: int = Field(default=100, ge=1)
    shallow: float = Field(default=SHALLOW, ge=0, le=1)

    def gradient(self, step: Step) -> Gradient:
        """Follow the paper's Equation 2, with a new k for every row."""
        extra = self.strength * self.shared(step, self._recovering)["recovery"]
        step.log(extra_gradient_norm=extra.norm())
        return (1 - self.strength) * step.gradient("safe") + extra

    def _recovering(self, step: Step) -> Terms:
        """∇L_recovery."""
        return {"recovery": step.gradient(recovery_rows(step, self.depth, self.shallow), completions="refusals")}
