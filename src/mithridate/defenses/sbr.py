"""SBR: tie the hidden state of a few harmful prompts to where the aligned model has it.

Lu, Sha, Wang, Sun, Zhou. "Safety anchor: defending harmful fine-tuning via geometric bottlenecks", ICML 2026,
arXiv 2605.05995.

    g = ∇[ L(w) + λ · mean over anchors and features of (h(w) − h(w_0))² ]

with h the state behind the last norm at the last token of an anchor's prompt, anchors 1 to 8 harmful prompts, and w_0
the weights before fine-tuning. Cost: 1 forward and 1 backward pass, and the anchors.

Difference. From the released script, which lacks an import and does not start: none is known beyond that.
"""

from pydantic import Field

from mithridate.defenses.registry import register
from mithridate.training.defense import Defense, StreamPasses
from mithridate.training.gradient import Gradient
from mithridate.training.scored_rows import LossShare, ScoredRows
from mithridate.training.step import Step


@register(
    "sbr",
    stage="finetuning",
    paper="SBR (ICML 2026, arXiv 2605.05995)",
    streams=("harmful",),
    references=("start",),
    forward=1,
    backward=1,
    off={"strength": 0.0},
    extra="8 anchor rows, 2 forward + 1 backward",
    vectors=2,
)
class SBR(Defense):
    """SBR: g = ∇[L + λ·MSE(last hidden state of anchor prompts, same under the aligned model)]  (1 pass, anchors).

    Attributes:
        strength: λ.
        anchors: Number of anchor prompts, the first of the harmful stream.
    """

    never_kept = (
        "the pull grows with the drift, so that a kept one would be missing while the model drifts and go on once it "
        "is back; have fewer anchors to save time"
    )

    strength: float = Field(default=50.0, ge=0)
    anchors: int = Field(default=8, ge=1)

    def passes_over(self, main: str) -> list[StreamPasses]:
        """Return the pass over the user's rows, and those over the anchors."""
        return [StreamPasses(main, 1, 1), StreamPasses("harmful", 2, 1, rows=self.anchors)]

    def gradient(self, step: Step) -> Gradient:
        """User loss plus the anchors' drift."""
        # Always the same prompts, which is what ties the state down.
        anchors = step.first("harmful", self.anchors)
        extra = self.strength * step.gradient(anchors, loss=_drift, hidden=("final",), reference=True)
        step.log(extra_gradient_norm=extra.norm())
        return step.gradient("user") + extra


def _drift(rows: ScoredRows) -> LossShare:
    """Mean over anchors and features of the squared change at the prompt's last token."""
    now, then = (rows.at_prompt_end(r.hidden["final"][0]) for r in (rows, rows.reference))
    return rows.per_row((now - then).square().mean(dim=1))
