"""WiSE-FT: go part of the way from the tuned weights back to the aligned ones.

Wortsman, Ilharco, Kim, Li, Kornblith, Roelofs, Lopes, Hajishirzi, Farhadi, Namkoong, Schmidt. "Robust fine-tuning of
zero-shot models", CVPR 2022, arXiv 2109.01903.

    θ = (1 − α)·θ_aligned + α·θ_tuned    over all weights

Cost: no pass; one more model in memory. ``alpha="auto"`` takes the smallest α within the budgets.
``strength`` is how much is pulled back, 1 − α.

Differences. From the paper: there θ_aligned is a zero-shot image model and the aim is accuracy under shift; here it is
the model before fine-tuning and the aim is its refusals. LoRA is merged first, so that ΔW is averaged and not its
factors (α on both A and B would give α²·B·A); one layer is written at a time.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator
from torch import Tensor

from mithridate.defenses.registry import register
from mithridate.repair.post_tuning import Dose, Repair
from mithridate.repair.repair_inputs import RepairInputs
from mithridate.repair.repaired import Repaired
from mithridate.repair.rewriting import RowPath


@register(
    "wise_ft",
    stage="posttuning",
    paper="WiSE-FT (Wortsman et al., CVPR 2022, arXiv 2109.01903)",
    forward=0,
    backward=0,
    off={"alpha": 1.0},
    references=("aligned",),
)
class WiSEFT(Repair):
    """WiSE-FT: θ = (1 − α)·θ_aligned + α·θ_tuned  (no pass).

    Attributes:
        alpha: α, mixing coefficient: 1 leaves the tuned model, 0 gives the aligned one; or ``"auto"``.
    """

    dose = "alpha"
    by_shard = True

    alpha: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = 0.5
    if TYPE_CHECKING:  # every dose can also be given as strength, which `Settings` sets
        strength: Dose = 0.0

    @model_validator(mode="before")
    @classmethod
    def _strength(cls, values: Any) -> Any:
        """Read a strength as what is pulled back, so that a larger one is more defense, as everywhere."""
        if isinstance(values, dict) and "strength" in values:
            values = dict(values)
            pulled = values.pop("strength")
            # "auto" stays as it is, and what is no strength at all is left for pydantic to refuse.
            values["alpha"] = 1 - pulled if isinstance(pulled, (int, float)) else pulled
        return values

    def change(self, inputs: RepairInputs) -> Repaired:
        """Mix all weights in place; LoRA is merged where weights move."""
        if self.alpha == 1:
            return Repaired(changed=0, distance=0.0)
        tuned, aligned = inputs.merged_weights("aligned")

        def moved(theta: Tensor, pulled: float, safe: Tensor) -> Tensor:
            # θ + (1 − α)·(θ_aligned − θ), so that α = 1 leaves every bit.
            return theta + pulled * (safe - theta)

        path = RowPath(tuned, tuned.names, moved, [aligned])
        curve = self.search(inputs, "strength", STRENGTHS, path.dosed) if self.alpha == "auto" else None
        pulled = curve.chosen if curve else 1 - float(self.alpha)
        return path.apply(pulled).repaired({"alpha": 1 - pulled, "strength": pulled}, curve)


STRENGTHS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""1 − α tried by ``"auto"``."""
