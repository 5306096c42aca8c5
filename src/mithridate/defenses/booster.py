"""Booster: weaken at alignment what one step of harmful fine-tuning would gain.

Huang, Hu, Ilhan, Tekin, Liu. "Booster", ICLR 2025, arXiv 2409.01586.

    g = ∇f(w) + λ·[∇h(w) − ∇h(w − α·∇h(w)/‖∇h(w)‖)]

with f the loss of safe answers and h of harmful ones. Cost: 3 forward and 3 backward passes a step.

Differences. From the released code: works with gradient accumulation, which there clears gradients inside the step;
the size of the harmful batch is free (there 10). The code's optional Vaccine noise is not here: it is `vaccine`.
"""

from pydantic import Field

from mithridate.defenses.registry import register
from mithridate.training.gradient import Gradient
from mithridate.training.harmful_terms import HarmfulTerms, Terms
from mithridate.training.step import Step


@register(
    "booster",
    stage="alignment",
    paper="Booster (Huang et al., ICLR 2025, arXiv 2409.01586)",
    streams=("harmful",),
    forward=3,
    backward=3,
    off={"strength": 0.0},
    vectors=2,
    precise=True,
)
class Booster(HarmfulTerms):
    """Booster: g = ∇f(w) + λ·[∇h(w) − ∇h(w − α·∇h(w)/‖∇h(w)‖)]  (3 passes).

    Attributes:
        strength: λ.
        radius: α, length of the simulated attack step.
    """

    strength: float = Field(default=5.0, ge=0)
    radius: float = Field(default=0.1, ge=0)

    def gradient(self, step: Step) -> Gradient:
        """Follow the paper's Algorithm 1."""
        extra = self.strength * self.shared(step, self._eased)["sharp"]
        step.log(extra_gradient_norm=extra.norm())
        return step.gradient("safe") + extra

    def _eased(self, step: Step) -> Terms:
        """∇h(w) − ∇h(w − α·∇h(w)/‖∇h(w)‖)."""
        # The difference is of gradients a short step apart.
        with step.precise():
            sharp = step.gradient("harmful")
            with step.moved(-self.radius * sharp.unit()):
                sharp -= step.gradient("harmful")
        return {"sharp": sharp}
