"""Lisa: alternate between the user's rows and safe rows, and hold each phase near where the other left off.

Huang, Hu, Ilhan, Tekin, Liu. "Lisa", NeurIPS 2024, arXiv 2405.18641.

    B1 steps on safe rows, B2 steps on the user's, and so on;      g = ∇(loss of the phase) + ρ·(w − w_other)

with w_other the weights at the end of the other phase. Cost: 1 forward and 1 backward pass, and one copy of the
trainable weights.

Differences from the released code: a phase is counted in optimizer steps, not micro-batches (the README swaps the two
phases; the code is right and so is this). The user's rows of a step that trains on safe rows are not trained, so with
B1 = 100 and B2 = 900 a tenth of an epoch is left out, as there.
"""

from pydantic import Field

from mithridate.defenses.registry import register
from mithridate.training.defense import Defense
from mithridate.training.gradient import Gradient
from mithridate.training.step import Step


@register(
    "lisa",
    stage="finetuning",
    paper="Lisa (Huang et al., NeurIPS 2024, arXiv 2405.18641)",
    streams=("safe",),
    forward=1,
    backward=1,
    off={"safe_steps": 0, "strength": 0.0},
    vectors=2,
)
class Lisa(Defense):
    """Lisa: B1 steps on safe rows, B2 on the user's, each g = ∇loss + ρ·(w − w_other)  (1 pass).

    Attributes:
        safe_steps: B1, optimizer steps of a phase on safe rows.
        user_steps: B2, optimizer steps of a phase on the user's rows.
        strength: ρ.
        warmup: Share of the run without the proximal term.
    """

    safe_steps: int = Field(default=100, ge=0)
    user_steps: int = Field(default=900, ge=1)
    strength: float = Field(default=1.0, ge=0)
    warmup: float = Field(default=0.1, ge=0, le=1)

    def gradient(self, step: Step) -> Gradient:
        """Follow the paper's Algorithm 2."""
        # Counted from the run's steps, so that a resumed run is in the same phase.
        place = step.clock.number % (self.safe_steps + self.user_steps)
        phase, other = ("safe", "user") if place < self.safe_steps else ("user", "safe")
        # Before the phase's first update the weights are still those that the other phase ended with.
        if self.safe_steps and place in (0, self.safe_steps) and step.clock.number > 0:
            # Where this phase left off is needed again only once it has ended anew.
            step.memory.pop(f"left_{phase}", None)
            step.memory[f"left_{other}"] = step.position.tensors
        # Else TRL would report the loss of rows that this step does not train on.
        step.train_on(phase)
        pull = self._pull(step, other)
        step.log(on_safe_rows=phase == "safe", extra_gradient_norm=pull.norm() if pull else 0.0)
        loss = step.gradient(phase)
        return loss + pull if pull else loss

    def _pull(self, step: Step, other: str) -> Gradient | None:
        """ρ·(w − w_other); None before the first switch and during the warm-up."""
        left = step.memory.get(f"left_{other}")
        if left is None or step.clock.number < self.warmup * step.clock.total:
            return None
        return self.strength * (step.position - Gradient.reading(left, step.weights.holders))
