"""SFT: plain supervised fine-tuning, the reference every defense is measured against.

    g = ∇f(w)

with f the mean loss per completion token over the optimizer step's batch; prompt tokens do not count. Cost: 1 forward
and 1 backward pass a step.
"""

from mithridate.defenses.registry import register
from mithridate.training.defense import Defense
from mithridate.training.gradient import Gradient
from mithridate.training.step import Step


@register("sft", stage=("alignment", "finetuning"), paper="no defense: the reference", forward=1, backward=1, off={})
class SFT(Defense):
    """SFT (no defense): g = ∇f(w)  (1 pass)."""

    def gradient(self, step: Step) -> Gradient:
        """Return the gradient of the stage's own rows."""
        return step.gradient(step.main)
