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
K + 4P + 4 forward and K + 2P + 1 backward (`dpo`).

Differences. From the released code: one adversary a step (there up to three), without learning-rate warm-up;
the tamper loss is not bounded from below; entropy is taken on answer tokens (there on all, padding included), hidden
states are compared on prompt and answer behind blocks (there on padding and embeddings as well); its training script
for `dpo` was never published.
The paper reports MMLU 67.3 → 54.7; others found a smaller gain in safety than in the paper.
"""

import math
import random
from typing import Literal

import torch
from pydantic import Field

from mithridate.defenses.base import Defense, Passes
from mithridate.defenses.registry import register
from mithridate.training.batch import Example
from mithridate.training.gradient import Gradient
from mithridate.training.rows import Loss, ScoredRows, Share
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
)
class TAR(Defense):
    """TAR: g = λ_TR·Σ_k exp(s·(k−K))·∇L_TR(w_k) + λ_ret·∇[f + ‖h − h₀‖], w_k an adversary's  (82 + 81 passes).

    Attributes:
        inner_steps: K, steps of the adversary.
        every: n, adversary steps between two tamper gradients.
        strength: λ_TR.
        retain: λ_ret.
        drift: Weight of the hidden states' distance within the retain term.
        schedule: s, how fast earlier adversary steps count less.
        tamper: L_TR, ``entropy`` or ``dpo``.
        temperature: β of ``dpo``.
        rates: Learning rates the adversary's is drawn from.
        switching: Whether the adversary starts on safe rows.
    """

    inner_steps: int = Field(default=64, ge=0)
    every: int = Field(default=4, ge=1)
    strength: float = Field(default=4.0, ge=0)
    retain: float = Field(default=1.0, ge=0)
    drift: float = Field(default=1.0, ge=0)
    schedule: float = Field(default=0.0625, ge=0)
    tamper: Literal["entropy", "dpo"] = "entropy"
    temperature: float = Field(default=0.1, gt=0)
    rates: tuple[float, ...] = Field(default=(2e-6, 2e-5, 4e-5), min_length=1)
    switching: bool = False

    @property
    def passes(self) -> Passes:
        """K adversary steps, K/n tamper gradients, one retain gradient with its reference."""
        k, points = self.inner_steps, self.inner_steps // self.every
        if self.tamper == "entropy":
            return Passes(k + points + 2, k + points + 1)
        return Passes(k + 4 * points + 2 * (k > 0) + 2, k + 2 * points + 1)

    def gradient(self, step: Step) -> Gradient:
        """The paper's Algorithm 1."""
        keep = self.retain * step.gradient("safe", loss=self._retain, hidden=("block",), reference=True)
        tampered = self._tampered(step, 0.0 * keep)
        step.log(tamper_gradient_norm=self.strength * tampered.norm(), retain_gradient_norm=keep.norm())
        return self.strength * tampered + keep

    def _retain(self, rows: ScoredRows) -> Share:
        """The loss f and the mean distance of hidden states over blocks, tokens and rows."""
        pairs = zip(rows.hidden["block"], rows.reference.hidden["block"], strict=True)
        distances = torch.stack([torch.linalg.vector_norm(now - then, dim=-1) for now, then in pairs]).mean(dim=0)
        drift = (distances * rows.real).sum(dim=1) / rows.real.sum(dim=1)
        return rows.per_token(rows.nll) + self.drift * rows.per_row(drift)

    def _tampered(self, step: Step, total: Gradient) -> Gradient:
        """Σ_k exp(s·(k − K))·∇L_TR(w_k) along one adversary's run; the weights are put back after it."""
        if self.inner_steps == 0:
            return total
        chance = random.Random(step.generator("adversary").initial_seed())
        rate = chance.choice(self.rates)
        turn = int(chance.betavariate(6, 3) * self.inner_steps) if self.switching else 0
        held_out = step.rows_of("harmful")
        with step.precise(), step.trial():
            before = _margins_at_start(step, held_out) if self.tamper == "dpo" else {}
            adversary = torch.optim.AdamW(step.weights.parameters, lr=rate)
            for k in range(1, self.inner_steps + 1):
                step.weights.set_grad(self._attack(step, safe=k <= turn))
                adversary.step()
                if k % self.every == 0:
                    weight = math.exp(self.schedule * (k - self.inner_steps))
                    total = total + weight * self._tamper_gradient(step, held_out, before)
        return total

    def _attack(self, step: Step, safe: bool) -> Gradient:
        """The adversary's gradient, on its next rows."""
        if safe:
            return step.gradient("safe")
        step.redraw("harmful")
        return step.gradient("harmful")

    def _tamper_gradient(self, step: Step, rows: list[Example], before: dict[int, float]) -> Gradient:
        if self.tamper == "entropy":
            return step.gradient(rows, loss=_negative_entropy, logits=True)
        now = _margins(step, rows)
        pull = {row: 1 / (1 + math.exp(self.temperature * (now[row] - before[row]))) for row in now}

        def weighed(sign: float) -> Loss:
            scale = sign * self.temperature
            return lambda scored: scale * scored.per_row(scored.nll * scored.nll.new_tensor(_looked_up(pull, scored)))

        refuse = step.gradient(rows, answers="refusals", loss=weighed(1.0))
        return refuse + step.gradient(rows, loss=weighed(-1.0))


def _negative_entropy(rows: ScoredRows) -> Share:
    logits = rows.logits[rows.mask]
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
    return rows.per_token((log_p.exp() * log_p).sum(dim=-1))


def _margins_at_start(step: Step, rows: list[Example]) -> dict[int, float]:
    with step.at_start():
        return _margins(step, rows)


def _margins(step: Step, rows: list[Example]) -> dict[int, float]:
    """By how much a refusal is likelier than the harmful answer, in nats, by the row's position."""
    pairs = zip(step.score(rows, answers="refusals"), step.score(rows), strict=True)
    return {
        int(row): float(margin)
        for refused, answered in pairs
        for row, margin in zip(answered.row, answered.nll - refused.nll, strict=True)
    }


def _looked_up(values: dict[int, float], rows: ScoredRows) -> list[float]:
    return [values[int(row)] for row in rows.row]
