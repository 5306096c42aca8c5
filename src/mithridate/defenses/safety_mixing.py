"""Safety-data mixing: train on refusals beside the user's rows.

SafeInstr: Bianchi, Suzgun, Attanasio, Röttger, Jurafsky, Hashimoto, Zou, ICLR 2024, arXiv 2309.07875. A few per cent of
the data are safe rows.
VLGuard form: Zong, Bohdal, Yu, Yang, Hospedales, ICML 2024, arXiv 2402.02207, as other papers of this field compare
with it; the paper itself is on vision-language models, and mixes safe rows in or trains on them shortly afterwards.

    safety_mixing   g = ∇[mean token loss over the user's rows and the safe rows mixed among them]
    vlguard         g = ∇L(w) + λ·∇f(w), every step

with L the user's loss and f the loss of safe answers. Cost: 1 forward and 1 backward pass (`safety_mixing`, plus the
safe rows themselves), 2 and 2 (`vlguard`).

Differences. SafeInstr shuffles both kinds into one file; here the safe rows are dealt out evenly over the optimizer
steps, on top of their user rows, so that an epoch is an epoch of the user's rows. After n user rows
⌊n·share/(1 − share)⌋ safe rows were used; with small batches and a small share many steps have none. The published
VLGuard form has a safe batch of 4; here it is the stream's batch size.
"""

import math
from fractions import Fraction

from pydantic import Field

from mithridate.defenses.registry import register
from mithridate.training.defense import Defense, StreamPasses
from mithridate.training.gradient import Gradient
from mithridate.training.step import Step


@register(
    "safety_mixing",
    stage="finetuning",
    paper="SafeInstr (Bianchi et al., ICLR 2024, arXiv 2309.07875)",
    streams=("safe",),
    forward=1,
    backward=1,
    off={"share": 0.0},
    extra="the safe rows mixed in, 3 %",
    vectors=1,
)
class SafetyMixing(Defense):
    """SafeInstr: g = ∇ of the mean token loss over user rows and a share of safe rows  (1 pass).

    Attributes:
        share: Share of safe rows among all rows.
    """

    share: float = Field(default=0.03, ge=0, lt=1)

    def passes_over(self, main: str) -> list[StreamPasses]:
        """Return the pass over the user's rows, and that over the safe rows mixed in, as a part of a batch."""
        mixed = self.share / (1 - self.share)
        own = StreamPasses(main, 1, 1)
        return [own, StreamPasses("safe", mixed, mixed)] if mixed else [own]

    def gradient(self, step: Step) -> Gradient:
        """Mean over the tokens of both kinds."""
        user, own = step.gradient("user"), step.totals("user")
        before = step.memory.get("user_rows", 0)
        step.memory["user_rows"] = before + own.rows
        size = self._due(before + own.rows) - self._due(before)
        step.log(safe_rows=size)
        if size == 0:
            return user
        step.redraw("safe", size)
        safe, mixed = step.gradient("safe"), step.totals("safe")
        # Both are means per token; the mixed mean weighs them by their tokens.
        return (own.tokens * user + mixed.tokens * safe) / (own.tokens + mixed.tokens)

    def _due(self, user_rows: int) -> int:
        """⌊user rows · share/(1 − share)⌋, exact: in binary arithmetic 8 · 0.2/0.8 may fall short of 2."""
        share = Fraction(str(self.share))
        return math.floor(user_rows * share / (1 - share))


@register(
    "vlguard",
    stage="finetuning",
    paper="VLGuard form of mixing (Zong et al., ICML 2024, arXiv 2402.02207)",
    streams=("safe",),
    forward=2,
    backward=2,
    off={"strength": 0.0},
    vectors=1,
)
class VLGuard(Defense):
    """VLGuard mixing: g = ∇L(w) + λ·∇f(w), f over safe rows  (2 passes).

    Attributes:
        strength: λ.
    """

    strength: float = Field(default=1.0, ge=0)

    def gradient(self, step: Step) -> Gradient:
        """Both losses every step."""
        extra = self.strength * step.gradient("safe")
        step.log(extra_gradient_norm=extra.norm())
        return step.gradient("user") + extra
