"""Write a defense of your own: one class, one formula. Here the user's gradient is pulled toward that of the safe rows.

python examples/own_defense.py [MODEL]
"""

import sys

from peft import LoraConfig
from pydantic import Field
from trl import SFTConfig

import mithridate as mi


@mi.register(
    "safe_pull",
    stage="finetuning",
    paper="an example",
    streams=("safe",),  # rows the trainer must be given: safe_dataset=
    forward=2,  # passes of an optimizer step
    backward=2,
    off={"strength": 0.0},  # settings at which plain SFT is left
)
class SafePull(mi.Defense):
    """Safe pull: g = ∇L(w) + λ·∇f(w), with L the user's loss and f that of safe answers.

    Attributes:
        strength: λ.
    """

    strength: float = Field(0.5, ge=0)

    def gradient(self, step: mi.Step) -> mi.Gradient:
        """Return the gradient of one optimizer step, over all its micro-batches and processes."""
        pull = self.strength * step.gradient("safe")
        step.log(extra_gradient_norm=pull.norm())  # proof that the defense acted
        return step.gradient("user") + pull


model = sys.argv[1] if len(sys.argv) > 1 else str(mi.miniature.base())
trainer = mi.DefendedTrainer(
    model,
    args=SFTConfig("runs/own", max_steps=4, logging_steps=1, report_to="none", use_cpu=True, bf16=False),
    train_dataset=mi.miniature.rows("task").select(range(64)),
    peft_config=LoraConfig(r=8, target_modules="all-linear"),
    defense=SafePull(strength=0.5),
    safe_dataset=mi.miniature.rows("safe"),
)
trainer.train()
norms = [log["extra_gradient_norm"] for log in trainer.state.log_history if "extra_gradient_norm" in log]
print("safe_pull: extra gradient norm", ", ".join(f"{norm:.3g}" for norm in norms))
