"""Panacea: push the tuned weights one normalized step up the harmful loss.

Wang, Huang, Shen, Yao, Luo, Liu, Tan, Huang, Tao. "Panacea", NeurIPS 2025, arXiv 2501.18100.

    max_w max_{‖ε‖ ≤ ρ}  λ·(h(w+ε) − h(w)) − f(w)

with f the user's loss and h the loss of the provider's harmful answers.

Full form (`panacea_tuning`), every step:  ε = ρ·∇h(w)/‖∇h(w)‖,  g = ∇f(w) − λ·[∇h(w+ε) − ∇h(w)],  and at the end
w ← w + ε once. Cost: 3 forward and 3 backward passes a step.

Post-hoc form (`panacea`), on a finished model:  ε = ρ·∇h(w)/‖∇h(w)‖ with h over the whole harmful set, w ← w + ε.
Cost: 1 forward and 1 backward pass over that set. In the paper's own ablation (λ = 0) this step alone brings 23.6 of
the 25.7 points of harmful score.

Differences. From the released code: h(w+ε) is not clamped at 5 (above it the code's gradient turns into harmful
descent; the paper has no clamp); weights are restored from a saved copy (the code's in-place subtraction drifts in
bf16); ε and the weights before it are saved, so that its scale can be changed without training again. The post-hoc
form takes a fresh gradient over the whole set; the full form's ε is that of the last step's batch, as in the paper.
∇h(w+ε) − ∇h(w) is taken in float32 under the same dropout masks, since little of it is left otherwise. The released
code does not run (two undefined names), so it cannot be compared as it is.
"""

from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field
from torch import Tensor

from mithridate.defenses.registry import register
from mithridate.errors import DefenseError
from mithridate.models.submodules import is_adapted
from mithridate.repair.displacement import Displacement, displace, displace_stored, wide
from mithridate.repair.post_tuning import Dose, Repair
from mithridate.repair.repair_inputs import RepairInputs
from mithridate.repair.repairable import repairable
from mithridate.repair.repaired import DoseCurve, Repaired
from mithridate.repair.stored_inputs import StoredInputs
from mithridate.training.defense import Finished
from mithridate.training.gradient import Gradient
from mithridate.training.harmful_terms import HarmfulTerms, Terms
from mithridate.training.step import Step
from mithridate.training.step_rows import Memory
from mithridate.training.trainable_weights import Weights

PAPER = "Panacea (Wang et al., NeurIPS 2025, arXiv 2501.18100)"


@register(
    "panacea_tuning",
    stage="finetuning",
    paper=PAPER,
    streams=("harmful",),
    forward=3,
    backward=3,
    off={"radius": 0.0},
    vectors=2,
    precise=True,
)
class PanaceaTuning(HarmfulTerms):
    """Panacea, full form: g = ∇f(w) − λ·[∇h(w+ε) − ∇h(w)], w + ε at the end  (3 passes).

    Attributes:
        radius: ρ, length of ε over all trainable weights.
        strength: λ.
    """

    radius: float = Field(default=1.0, ge=0)
    strength: float = Field(default=0.001, ge=0)

    @property
    def vectors(self) -> int:
        """Vectors held at once; a shared term is still there when w + ε is made."""
        return super().vectors + (self.every > 1)

    def gradient(self, step: Step) -> Gradient:
        """Outer step of the paper's Eq. 2, with ε of its inner solution."""
        steep = self.shared(step, self._pushed)["steep"]
        epsilon = Gradient(step.memory["epsilon"], holders=step.weights.holders)
        step.log(epsilon_norm=epsilon.norm(), extra_gradient_norm=self.strength * steep.norm())
        return step.gradient("user") - self.strength * steep

    def _pushed(self, step: Step) -> Terms:
        """∇h(w+ε) − ∇h(w); ε is remembered for the end."""
        # That of an earlier step is of no use any longer, and as large as the weights.
        step.memory.pop("epsilon", None)
        # Both the difference and a short ε would be lost in half precision.
        with step.precise():
            harm = step.gradient("harmful")
            epsilon = self.radius * harm.unit()
            with step.moved(epsilon):
                pushed = step.gradient("harmful")
        step.memory["epsilon"] = epsilon.tensors
        return {"steep": pushed - harm}

    def finish(self, weights: Weights, memory: Memory) -> Finished:
        """W ← w + ε, once, keeping both."""
        if "epsilon" not in memory:
            raise DefenseError("Panacea has no ε: no optimizer step was run")
        epsilon = Gradient(memory["epsilon"])
        before = weights.snapshot()
        weights.add(epsilon)
        moved = weights.moved_since(before)
        # The paper's last act did nothing, and the model would pass as defended.
        if self.radius and not moved.weights:
            raise DefenseError("ε is lost in the rounding of the weights; train them in float32, or raise the radius")
        return Finished({"displacement_norm": moved.distance}, Displacement(weights.names, before, epsilon))


class Aim(NamedTuple):
    """Where and how far to push.

    Attributes:
        displacement: The weights and ∇h/‖∇h‖ over them, not applied yet.
        curve: The search for ρ, where it is ``"auto"``.
        rows: Harmful rows that were used.
    """

    displacement: Displacement
    curve: DoseCurve | None
    rows: int


@register(
    "panacea",
    stage="posttuning",
    paper=PAPER,
    streams=("harmful",),
    forward=1,
    backward=1,
    off={"radius": 0.0},
)
class Panacea(Repair):
    """Panacea, post-hoc: w ← w + ρ·∇h(w)/‖∇h(w)‖ over the whole harmful set  (1 pass over it).

    Attributes:
        radius: ρ, or ``"auto"`` for the largest one within the budgets.
    """

    dose = "radius"
    by_shard = True

    radius: Dose = Field(default=1.0)
    if TYPE_CHECKING:  # every dose can also be given as strength, which `Settings` sets
        strength: Dose = 0.0

    def change(self, inputs: RepairInputs) -> Repaired:
        """Displace the model's adapter weights, or all weights where it has none, in place."""
        aim = self.aim(inputs)
        radius = aim.curve.chosen if aim.curve else float(self.radius)
        activity = {"radius": radius, "harmful_rows": aim.rows}
        return displace(inputs.model, aim.displacement, radius, radius, activity, aim.curve)

    def change_stored(self, inputs: StoredInputs) -> Repaired:
        """Displace an adapter, which is in memory, as ever; whole weights one at a time, by a gradient kept on disk."""
        if is_adapted(inputs.model):
            return self.change(inputs)
        rows, radius = inputs.rows("harmful"), float(self.radius)
        direction = inputs.whole_gradient(rows, self.batch_size)
        norm = direction.norm(inputs.names)

        def epsilon(name: str, rows: slice) -> Tensor:
            return direction.read(name, rows) / norm

        activity = {"radius": radius, "harmful_rows": len(rows)}
        moved = [name for name in inputs.names if name in direction]
        return displace_stored(inputs.tuned.weights, moved, epsilon, radius, radius, activity)

    def aim(self, inputs: RepairInputs) -> Aim:
        """Find the direction ∇h/‖∇h‖ and, where ρ is ``"auto"``, its length.

        Raises:
            DefenseError: If rows are missing, or no radius is within the budgets.
        """
        rows, weights = inputs.rows("harmful"), repairable(inputs.model)
        unit = inputs.gradient(weights, rows, self.batch_size).unit()
        displacement = Displacement(weights.names, weights.snapshot(), unit, 0.0)
        curve = self._search(inputs, displacement) if self.radius == "auto" else None
        return Aim(displacement, curve, len(rows))

    def _search(self, inputs: RepairInputs, displacement: Displacement) -> DoseCurve:
        # Doses relative to the weights' own norm, so that one grid fits every model.
        size = wide(Gradient(displacement.base)).norm()
        doses = [SMALLEST * size * 2.0**k for k in range(DOUBLINGS)]
        return self.search(inputs, "radius", doses, lambda radius: displacement.dosed(inputs.model, radius))


SMALLEST = 1e-3
"""Smallest radius tried by ``"auto"``, as a share of the norm of the weights."""
DOUBLINGS = 12  # up to twice the norm of the weights
