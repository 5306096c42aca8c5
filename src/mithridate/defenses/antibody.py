"""Antibody: flatten the harmful loss at alignment, weigh the user's rows at fine-tuning.

Nguyen, Le, Wu, Bui, Harandi. "Antibody", ICLR 2026, arXiv 2603.00498.

Alignment (Eq. 11), with a = ∇f, s = ∇h(w) − ∇h(w_ρ), w_ρ = w − ρ·∇h(w)/‖∇h(w)‖:

    g = a + λ_t·s + λ_r·∇L_refusal(w_ρ)

where f is the loss of safe answers, h of harmful answers, L_refusal of refusals to the harmful prompts. λ_t is

    cosine    EMA of max(0, ξ − ⟨a, s⟩/(‖a‖‖s‖))                       (the released code; default)
    kkt       min(cap, max(0, ξ − ⟨a, s⟩/‖s‖²))                        (the paper's Theorem 4.1, with a cap)
    constant  ξ                                                        (Booster, plus the refusal term)

Fine-tuning (Eq. 7 and 12), with y_r a refusal paired with the prompt of row i:

    d_i = log π(y_i|x_i) − log π(y_r|x_i),   w = softmax(d/τ) over the whole step's batch,
    g   = ∇ Σ_i w_i·NLL_i / Σ_i w_i·|y_i|,   no gradient through w.

With ``temperature="auto"`` τ = spread·σ, σ the standard deviation of d over the provider's safe and harmful rows
together, measured once under the weights that fine-tuning starts from, without dropout:

    σ² = (Var_safe[d] + Var_harmful[d])/2 + ((mean_safe[d] − mean_harmful[d])/2)²   (either stream counts half).

Cost: alignment 4 forward and 4 backward passes, fine-tuning 2 forward (one without gradient, over the refusals alone
behind the prompts of the other where `mithridate.models.prompt_cache` can keep them) and 1 backward; ``auto`` once 2
forward over up to 128 safe and 128 harmful rows.

Differences. From the paper: λ_t's default form is the released code's cosine with EMA; the KKT form is capped, since
it grows without bound where s is small; likelihoods are per token by default, as in the released code. From the
released code: ∇h(w) is taken once, not twice; no copy of the model is made; weights are a softmax over the optimizer
step's batch, not over each micro-batch; `floor`, `temperature="auto"` and `depth` (the refusals of `deep_alignment`)
are new.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from mithridate.defenses.registry import register
from mithridate.defenses.spread_of_ratios import FEWEST, MEASURED, deviation_of_ratios
from mithridate.errors import DefenseError
from mithridate.training.defense import Defense, StreamPasses
from mithridate.training.gradient import Gradient
from mithridate.training.harmful_terms import HarmfulTerms, Terms
from mithridate.training.recovery_rows import recovery_rows
from mithridate.training.scored_rows import ScoredRows
from mithridate.training.step import Step
from mithridate.training.step_rows import Memory

PAPER = "Antibody (Nguyen et al., ICLR 2026, arXiv 2603.00498)"


@register(
    "antibody_alignment",
    stage="alignment",
    paper=PAPER,
    streams=("harmful", "refusals"),
    forward=4,
    backward=4,
    off={"form": "constant", "sharpness": 0.0, "refusal": 0.0},
    vectors=2,
    precise=True,
)
class AntibodyAlignment(HarmfulTerms):
    """Antibody, alignment: g = ∇f(w) + λ_t·[∇h(w) − ∇h(w_ρ)] + λ_r·∇L_refusal(w_ρ)  (4 passes).

    Attributes:
        radius: ρ, length of the simulated attack step w_ρ = w − ρ·∇h/‖∇h‖.
        sharpness: ξ, level of λ_t.
        refusal: λ_r, weight of the refusal term.
        form: How λ_t is set: ``cosine`` (with EMA), ``kkt`` or ``constant``.
        momentum: EMA momentum of the cosine form.
        cap: Largest λ_t of the KKT form.
        depth: Most tokens of the harmful answer that the refusals stand behind; 0 is the paper's form.
    """

    refused = 1

    radius: float = Field(default=0.1, ge=0)
    sharpness: float = Field(default=5.0, ge=0)
    refusal: float = Field(default=0.05, ge=0)
    form: Literal["cosine", "kkt", "constant"] = "cosine"
    momentum: float = Field(default=0.99, ge=0, lt=1)
    cap: float = Field(default=10.0, gt=0)
    depth: int = Field(default=0, ge=0)

    def gradient(self, step: Step) -> Gradient:
        """Eq. 11."""
        terms = self.shared(step, self._attacked)
        sharp, refuse = terms["sharp"], terms["refuse"]
        # Not in float32 as they are: no difference is taken of it, and in the run's own precision it costs less.
        safe = step.gradient("safe")
        lambda_t = self._adapt(safe, sharp, step.memory)
        extra = lambda_t * sharp + self.refusal * refuse
        step.log(lambda_t=lambda_t, sharpness_norm=sharp.norm(), extra_gradient_norm=extra.norm())
        return safe + extra

    def _attacked(self, step: Step) -> Terms:
        """S = ∇h(w) − ∇h(w_ρ), and ∇L_refusal(w_ρ)."""
        # s is a difference of nearby gradients, which half precision would reduce to noise.
        with step.precise():
            sharp = step.gradient("harmful")
            with step.moved(-self.radius * sharp.unit()):
                sharp -= step.gradient("harmful")
                refused = recovery_rows(step, self.depth) if self.depth else "harmful"
                refuse = step.gradient(refused, completions="refusals")
        return {"sharp": sharp, "refuse": refuse}

    def _adapt(self, safe: Gradient, sharp: Gradient, memory: Memory) -> float:
        """λ_t (Theorem 4.1 of the paper, or the released code's cosine)."""
        if self.form == "constant":
            return self.sharpness
        inner, length = safe.dot(sharp), sharp.norm()
        if self.form == "kkt":
            # λ = ξ − ⟨a, s⟩/‖s‖²: the least λ with ⟨a + λ·s, s⟩ ≥ ξ·‖s‖².
            return min(self.cap, max(0.0, self.sharpness - inner / (length**2 + 1e-12)))
        present = max(0.0, self.sharpness - inner / (safe.norm() * length + 1e-8))
        past: float = memory.get("lambda_t", present)
        # The first step has no past, so its own value starts the average.
        memory["lambda_t"] = self.momentum * past + (1 - self.momentum) * present
        return float(memory["lambda_t"])


HELD_BACK = 0.1
"""A row counts as held back below this multiple of the weight it has in plain SFT."""
TEMPERATURE = "temperature"
"""Name under which the measured temperature is remembered."""


@register(
    "antibody_tuning",
    stage="finetuning",
    paper=PAPER,
    streams=("refusals",),
    forward=2,
    backward=1,
    off={"temperature": float("inf")},
    extra="with temperature auto once 2 forward over 128 safe and 128 harmful rows",
)
class AntibodyTuning(Defense):
    """Antibody, fine-tuning: rows weighted by softmax((refusal NLL − answer NLL)/τ)  (2 forward, 1 backward).

    Attributes:
        temperature: τ of the softmax, in nats; ``auto`` for ``spread`` times the standard deviation of d_i over the
            provider's safe and harmful rows, which are needed then, under the weights that fine-tuning starts from.
        spread: For ``auto``: τ as a multiple of that standard deviation.
        rows: For ``auto``: rows of either stream that it is measured on, drawn by the run's seed; all where it has
            fewer, and at least 8.
        likelihood: ``token`` compares mean likelihoods per token, ``sequence`` those of whole answers.
        floor: Rows whose log-likelihood ratio d_i lies below are not learned at all; None for no floor. Without
            it a batch of nothing but harmful rows is learned at full strength, since weights are relative.
    """

    temperature: Annotated[float, Field(gt=0)] | Literal["auto"] = 1.0
    spread: float = Field(default=1 / 3, gt=0, allow_inf_nan=False)
    rows: int = Field(default=128, ge=FEWEST)
    likelihood: Literal["token", "sequence"] = "token"
    floor: float | None = None

    @property
    def streams(self) -> tuple[str, ...]:
        """Refusals, and with ``auto`` the provider's safe and harmful rows."""
        return (*self.info.streams, *(MEASURED if self.temperature == "auto" else ()))

    def passes_over(self, main: str) -> list[StreamPasses]:
        """Return the pass over the user's rows, and the one over refusals behind the same prompts."""
        return [StreamPasses(main, 1, 1), StreamPasses(main, 1, 0, refusals=True, part="completions")]

    def passes_before(self) -> list[StreamPasses]:
        """Return the same passes over the rows that τ is measured on."""
        streams = MEASURED if self.temperature == "auto" else ()
        return [
            passed
            for stream in streams
            for passed in (
                StreamPasses(stream, 1, 0, rows=self.rows),
                StreamPasses(stream, 1, 0, refusals=True, rows=self.rows, part="completions"),
            )
        ]

    def start(self, step: Step) -> None:
        """Measure τ where it is ``auto``.

        Raises:
            DefenseError: If there are too few rows, or their likelihoods tell no temperature.
        """
        if self.temperature == "auto":
            step.memory[TEMPERATURE] = self.spread * deviation_of_ratios(step, self.rows, self._ratio)

    def gradient(self, step: Step) -> Gradient:
        """Eq. 12."""
        temperature = self._temperature(step)
        tuned = step.gradient("user", log_weights=lambda rows: self._log_weights(rows, temperature), paired="refusals")
        assert tuned.row_shares is not None
        weights, shares = tuned.row_shares.relative(), tuned.row_shares.shares
        step.log(
            weight_max=max(weights),
            weight_effective_rows=1 / sum(share**2 for share in shares) if any(shares) else 0.0,
            rows_held_back=sum(weight < HELD_BACK for weight in weights),
        )
        if self.temperature == "auto":
            step.log(temperature=temperature)
        return tuned

    def _temperature(self, step: Step) -> float:
        if self.temperature != "auto":
            return self.temperature
        if TEMPERATURE not in step.memory:
            raise DefenseError(
                "the checkpoint holds no measured temperature, and the weights have moved since; resume with the "
                "settings that the training was started with, or start anew"
            )
        return float(step.memory[TEMPERATURE])

    def _log_weights(self, rows: ScoredRows, temperature: float) -> Tensor:
        """d_i/τ (Eq. 7), −∞ below the floor."""
        ratio = self._ratio(rows)
        weights = ratio / temperature
        return weights if self.floor is None else weights.masked_fill(ratio < self.floor, float("-inf"))

    def _ratio(self, rows: ScoredRows) -> Tensor:
        """d_i = log π(y|x) − log π(y_r|x), as negative log-likelihoods the other way round."""
        refused = rows.paired
        return refused.mean_nll - rows.mean_nll if self.likelihood == "token" else refused.nll - rows.nll
