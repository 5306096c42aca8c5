"""Vaccine and T-Vaccine: align under the activation noise that hurts the safe loss most.

Huang, Hu, Liu. "Vaccine", NeurIPS 2024, arXiv 2402.01109.
Liu, Lin, Huang, Mo, Mu, Shen. "T-Vaccine", arXiv 2410.09760.

With o_l the output of attention block l:

    e_l = ρ · ∂f/∂o_l / ‖(∂f/∂o_1, …, ∂f/∂o_L)‖,      g = ∇f(w) with e_l added to o_l

One norm over all blocks, rows and tokens together. T-Vaccine adds noise to S blocks only and trains only these; they
are drawn anew every J steps, without replacement, with probabilities proportional to ‖∂h/∂o_l‖ on one harmful row,
measured every K steps.

Cost: 2 forward and 2 backward passes; T-Vaccine one harmful row more every K steps.

Differences from the released code: the norm is taken over the optimizer step's whole batch, so that accumulation and
several processes change nothing (there every micro-batch has its own norm, and clearing gradients between the passes
loses those of earlier micro-batches); blocks are found by structure, not by class; all weights of the blocks that were
not drawn are held, not only LoRA on attention; where a model has more than 26 blocks, the code also recomputes the
block before each drawn one, which changes memory only.
"""

import math

import torch
from pydantic import Field

from mithridate.defenses.registry import register
from mithridate.errors import DefenseError
from mithridate.training.defense import Defense, StreamPasses
from mithridate.training.gradient import Gradient
from mithridate.training.step import Step


@register(
    "vaccine",
    stage="alignment",
    paper="Vaccine (Huang et al., NeurIPS 2024, arXiv 2402.01109)",
    forward=2,
    backward=2,
    off={"radius": 0.0},
)
class Vaccine(Defense):
    """Vaccine: g = ∇f(w) with e_l = ρ·(∂f/∂o_l)/‖∂f/∂o‖ added to every attention output o_l  (2 passes).

    Attributes:
        radius: ρ, norm of the noise over all blocks, rows and tokens.
    """

    never_kept = "its noise is laid on the very rows and tokens that it was found on, and every step has others"

    radius: float = Field(default=2.0, ge=0)

    def gradient(self, step: Step) -> Gradient:
        """Follow the paper's Algorithm 1."""
        felt = step.activation_gradient("safe", "attention")
        noise = self.radius * felt.unit()
        step.log(noise_norm=noise.norm())
        with step.perturbed("attention", noise):
            return step.gradient("safe")


@register(
    "t_vaccine",
    stage="alignment",
    paper="T-Vaccine (Liu et al., arXiv 2410.09760)",
    streams=("harmful",),
    forward=2,
    backward=2,
    off={"radius": 0.0, "blocks": None},
    extra="1 harmful row every 200 steps",
)
class TVaccine(Defense):
    """T-Vaccine: Vaccine on S blocks at a time, drawn by their harmful gradient; others are held  (2 passes).

    Attributes:
        radius: ρ, norm of the noise over the drawn blocks.
        blocks: S, blocks that are trained and perturbed at a time; None for all.
        measure_every: K, optimizer steps between two measurements of the harmful gradient.
        draw_every: J, optimizer steps between two draws.
    """

    never_kept = (
        "its noise is laid on the very rows and tokens that it was found on; set measure_every for its harmful rows"
    )

    radius: float = Field(default=3.0, ge=0)
    blocks: int | None = Field(default=8, ge=1)
    measure_every: int = Field(default=200, ge=1)
    draw_every: int = Field(default=20, ge=1)

    def passes_over(self, main: str) -> list[StreamPasses]:
        """Return the passes over safe rows; the harmful row of every K-th step is left out."""
        return [StreamPasses(main, 2, 2)]

    def gradient(self, step: Step) -> Gradient:
        """Follow the paper's Algorithm 1."""
        memory = step.memory
        # On step 0 as well, so that there are chances to draw by.
        if step.clock.number % self.measure_every == 0:
            memory["chances"] = self._measure(step)
        if step.clock.number % self.draw_every == 0:
            memory["blocks"] = self._draw(step, memory["chances"])
        felt = step.activation_gradient("safe", "attention", memory["blocks"])
        noise = self.radius * felt.unit()
        step.log(noise_norm=noise.norm(), blocks_trained=len(memory["blocks"]))
        with step.training_only(memory["blocks"]), step.perturbed("attention", noise):
            return step.gradient("safe")

    def _measure(self, step: Step) -> list[float]:
        """Share of each block in the harmful gradient over attention outputs, on one row."""
        norms = step.activation_gradient(step.rows_of("harmful")[:1], "attention").norms()
        # multinomial would draw from nothing, or from NaN.
        if not 0 < sum(norms) < math.inf:
            raise DefenseError(
                f"the harmful gradient over attention blocks has norm {sum(norms)}, so none can be drawn"
            )
        return [norm / sum(norms) for norm in norms]

    def _draw(self, step: Step, chances: list[float]) -> list[int]:
        every = len(chances)
        if self.blocks is None or self.blocks >= every:
            return list(range(every))
        weights = torch.tensor(chances, dtype=torch.float64)
        return sorted(torch.multinomial(weights, self.blocks, generator=step.generator("blocks")).tolist())
