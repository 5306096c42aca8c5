"""TAR: align against an adversary that fine-tunes the model inside every step.

Tamirisa et al. "Tamper-resistant safeguards", ICLR 2025, arXiv 2408.00761.

Every step, from the present weights w, an adversary takes K steps of AdamW on harmful rows, w_1 … w_K; then

    g = λ_TR · Σ_{k = n, 2n, …, K} exp(s·(k − K)) · ∇L_TR(w_k)  +  λ_ret · ∇[f(w) + mean ‖h(w) − h(w_0)‖]

with first-order gradients of a tamper loss L_TR on one held-out harmful batch, f the loss of safe answers, h the
hidden states behind every block, w_0 the weights the stage started from; the mean is over the blocks and tokens of
a row, then over rows. L_TR is

    entropy   −H of the next token, mean over answer tokens             (the paper's for knowledge; default)
    dpo       −log σ(β·[log π(y_r)/π_0(y_r) − log π(y_h)/π_0(y_h)])     (the paper's for refusals)

with y_r a refusal and y_h the harmful answer to the same prompt. The adversary's learning rate is drawn every step;
with ``switching`` it first trains on safe rows and turns to harmful ones after a share of K drawn from Beta(6, 3).

Cost at K inner steps and P = K/n tamper points: K + P + 2 forward and K + P + 1 backward passes (`entropy`), or
K + 2P + 4 forward and K + 2P + 1 backward (`dpo`).

Differences. From the released code: one adversary a step (there up to three), without learning-rate warm-up;
the tamper loss is not bounded from below; entropy is taken on answer tokens (there on all, padding included), hidden
states are compared on prompt and answer behind blocks (there on padding and embeddings as well); its training script
for `dpo` was never published.
The paper reports MMLU 67.3 → 54.7; others found a smaller gain in safety than in the paper.
"""

import math
import random
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch.nn.functional import logsigmoid

from mithridate.defenses.registry import register
from mithridate.models.tokenization import TokenizedRow
from mithridate.settings import Passes
from mithridate.training.gradient import Gradient
from mithridate.training.harmful_terms import HarmfulTerms
from mithridate.training.scored_rows import LossShare, ScoredRows
from mithridate.training.step import Step


@register(
    "tar",
    stage="alignment",
    paper="TAR (Tamirisa et al., ICLR 2025, arXiv 2408.00761)",
    streams=("harmful", "refusals"),
    references=("start",),
    forward=82,
    backward=81,
    off={"inner_steps": 0, "drift": 0.0},
    vectors=6,
    precise=True,
)
class TAR(HarmfulTerms):
    """TAR: g = λ_TR·Σ_k exp(s·(k−K))·∇L_TR(w_k) + λ_ret·∇[f + ‖h − h₀‖], w_k an adversary's  (82 + 81 passes).

    Attributes:
        inner_steps: K, steps of the adversary.
        tamper_every: n, adversary steps between two tamper gradients; to be given wherever ``every`` is.
        strength: λ_TR.
        retain: λ_ret.
        drift: Weight of the hidden states' distance within the retain term.
        schedule: s, how fast earlier adversary steps count less.
        tamper: L_TR, ``entropy`` or ``dpo``.
        temperature: β of ``dpo``.
        rates: Learning rates the adversary's is drawn from.
        switching: Whether the adversary starts on safe rows.
    """

    steady: ClassVar[Passes] = Passes(2, 1)  # the retain gradient with its reference

    inner_steps: int = Field(default=64, ge=0)
    tamper_every: int = Field(default=4, ge=1)
    strength: float = Field(default=4.0, ge=0)
    retain: float = Field(default=1.0, ge=0)
    drift: float = Field(default=1.0, ge=0)
    schedule: float = Field(default=0.0625, ge=0)
    tamper: Literal["entropy", "dpo"] = "entropy"
    temperature: float = Field(default=0.1, gt=0)
    rates: tuple[float, ...] = Field(default=(2e-6, 2e-5, 4e-5), min_length=1)
    switching: bool = False

    @model_validator(mode="before")
    @classmethod
    def _knows_which_steps(cls, values: Any) -> Any:
        # Older recipes call n `every`. Read as today's, `every: 4` would leave out three of four tamper gradients.
        if isinstance(values, dict) and "every" in values and "tamper_every" not in values:
            raise ValueError(
                "every needs tamper_every beside it, since either may be meant: tamper_every counts the adversary's "
                "steps between two tamper gradients, every the optimizer steps that share one"
            )
        return values

    @property
    def full_passes(self) -> Passes:
        """K adversary steps, K/n tamper gradients, one retain gradient with its reference."""
        k, points = self.inner_steps, self.inner_steps // self.tamper_every
        if self.tamper == "entropy":
            return Passes(k + points + 2, k + points + 1)
        return Passes(k + 2 * points + 2 * (points > 0) + 2, k + 2 * points + 1)

    def gradient(self, step: Step) -> Gradient:
        """Follow the paper's Algorithm 1."""
        keep = step.gradient("safe", loss=self._retain, hidden=("block",), reference=True)
        # A zero vector of the right shapes, for K = 0.
        tamper = self.shared(step, lambda step: {"tamper": self._tamper(step, 0.0 * keep)})["tamper"]
        step.log(tamper_gradient_norm=self.strength * tamper.norm(), retain_gradient_norm=self.retain * keep.norm())
        return self.strength * tamper + self.retain * keep

    def _tamper(self, step: Step, total: Gradient) -> Gradient:
        """Σ_k exp(s·(k − K))·∇L_TR(w_k), w_k the weights after k steps of the adversary."""
        # The batch drawn first is held out: the adversary draws the ones after it.
        steps, held_out = self.inner_steps, step.rows_of("harmful")
        # Drawn from the step's own number, alike on every process and after a resume.
        chance = random.Random(step.generator("adversary").initial_seed())
        rate = chance.choice(self.rates)
        # Beta(6, 3) has mean 2/3: mostly safe rows first, the harmful ones late.
        turn = int(chance.betavariate(6, 3) * steps) if self.switching else 0
        with step.precise(), step.simulated(torch.optim.AdamW, lr=rate) as follow:
            for k in range(1, steps + 1):
                follow(self._attack(step, on_safe_rows=k <= turn))
                if k % self.tamper_every == 0:
                    total += math.exp(self.schedule * (k - steps)) * self._pull(step, held_out)
        return total

    def _attack(self, step: Step, on_safe_rows: bool) -> Gradient:
        """Return the adversary's gradient, on its next rows."""
        if not on_safe_rows:
            step.redraw("harmful")
        return step.gradient("safe" if on_safe_rows else "harmful")

    def _pull(self, step: Step, rows: list[TokenizedRow]) -> Gradient:
        """∇L_TR at the present weights."""
        if self.tamper == "entropy":
            return step.gradient(rows, loss=lambda r: -r.per_token(r.entropy))
        return step.gradient(rows, loss=self._dpo, paired="refusals", reference=True)

    def _retain(self, rows: ScoredRows) -> LossShare:
        """Return the loss f, and the mean distance of hidden states over blocks, tokens and rows."""
        pairs = zip(rows.hidden["block"], rows.reference.hidden["block"], strict=True)
        distances = torch.stack([torch.linalg.vector_norm(now - then, dim=-1) for now, then in pairs]).mean(dim=0)
        # Padding has hidden states too, which mean nothing.
        drift = (distances * rows.real).sum(dim=1) / rows.real.sum(dim=1)
        return rows.per_token(rows.nll) + self.drift * rows.per_row(drift)

    def _dpo(self, rows: ScoredRows) -> LossShare:
        """−log σ(β·[log π(y_r)/π_0(y_r) − log π(y_h)/π_0(y_h)])."""
        return -rows.per_row(logsigmoid(self.temperature * (rows.paired.log_ratio - rows.log_ratio)))
