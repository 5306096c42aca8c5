"""Random perturbation: the control of Panacea's paper, a displacement without a direction.

Source: Wang et al., "Panacea", NeurIPS 2025 (arXiv 2501.18100), Figure 4: w ← w + N(0, std²) per adapter entry.
Matched form: w ← w + ρ·n/‖n‖ with Gaussian n, the same length as Panacea's ε at the same ρ; a fairer control that
the paper does not have (std 0.01 over 25 M entries already has norm 50, against ρ = 1).

Cost: none. Difference from the released code: the noise is added once, not at every evaluation on top of itself.
"""

from typing import TYPE_CHECKING, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from mithridate.defenses.panacea import Panacea
from mithridate.defenses.registry import register
from mithridate.models.submodules import is_adapted
from mithridate.models.tensor_files import EVERY_ROW
from mithridate.repair.displacement import Displacement, displace, displace_stored
from mithridate.repair.noise import Noise
from mithridate.repair.post_tuning import Dose, Repair
from mithridate.repair.repair_inputs import RepairInputs
from mithridate.repair.repairable import repairable
from mithridate.repair.repaired import Repaired
from mithridate.repair.stored_inputs import StoredInputs
from mithridate.training.gradient import Gradient


@register(
    "random_perturbation",
    stage="posttuning",
    paper="control in Panacea (Wang et al., NeurIPS 2025)",
    streams=("harmful",),
    forward=0,
    backward=0,
    off={"radius": 0.0},
    extra="Panacea's search, where the strength is auto",
)
class RandomPerturbation(Repair):
    """Random perturbation: w ← w + N(0, std²), or w ← w + ρ·n/‖n‖ at Panacea's length  (no pass).

    Attributes:
        std: Standard deviation per entry; exclusive with ``radius``.
        radius: ρ, norm of the whole displacement, or ``"auto"`` for the one that Panacea would choose; exclusive
            with ``std``.
        seed: Seed of the noise.
    """

    dose = "radius"
    by_shard = True

    std: float | None = Field(default=None, ge=0)
    radius: Dose | None = None
    seed: int = 0
    if TYPE_CHECKING:  # every dose can also be given as strength, which `Settings` sets
        strength: Dose = 0.0

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.std is None) == (self.radius is None):
            raise ValueError("give exactly one of std (per entry) and radius (norm of the whole displacement)")
        return self

    def change(self, inputs: RepairInputs) -> Repaired:
        """Displace the model's adapter weights, or all weights where it has none, in place."""
        radius = self._panacea_radius(inputs) if self.radius == "auto" else self.radius
        weights = repairable(inputs.model)
        drawn = _Drawn(self, Noise(self.seed, [tuple(one.shape) for one in weights.parameters]))
        places = enumerate(weights.parameters)
        epsilon = Gradient([drawn.rows(place, one.dtype).to(one.device) for place, one in places])
        displacement = Displacement(weights.names, weights.snapshot(), epsilon, 0.0)
        norm = drawn.norm if radius is None else radius
        return displace(inputs.model, displacement, 1.0 if radius is None else radius, norm, {"norm": norm})

    def change_stored(self, inputs: StoredInputs) -> Repaired:
        """Displace an adapter, which is in memory, as ever; of whole weights a few rows at a time, drawn once more."""
        if is_adapted(inputs.model):
            return self.change(inputs)
        weights = inputs.tuned.weights
        drawn = _Drawn(self, Noise(self.seed, [weights.shape(name) for name in weights.names]))
        places = {name: place for place, name in enumerate(weights.names)}

        def epsilon(name: str, rows: slice) -> Tensor:
            return drawn.rows(places[name], weights.dtype(name), rows)

        norm = drawn.norm if self.radius is None else float(self.radius)
        scale = 1.0 if self.radius is None else norm
        return displace_stored(weights, weights.names, epsilon, scale, norm, {"norm": norm})

    def _panacea_radius(self, inputs: RepairInputs) -> float:
        # Budget, trim and the like as well, or the search would not be the one that Panacea makes.
        shared = {name: getattr(self, name) for name in Repair.model_fields}
        curve = Panacea(radius="auto", **shared).aim(inputs).curve
        assert curve is not None
        return curve.chosen


class _Drawn:
    """ε: noise of a standard deviation, or of norm 1 where a radius is given.

    Args:
        defense: Which of them.
        noise: Standard Gaussian noise.

    Attributes:
        norm: ‖ε‖ of noise of a standard deviation, ‖n‖ before it is divided by it of the other.
    """

    def __init__(self, defense: RandomPerturbation, noise: Noise) -> None:
        self._std, self._noise = defense.std, noise
        self.norm = noise.norm() * (1.0 if self._std is None else self._std)

    def rows(self, place: int, dtype: torch.dtype, rows: slice = EVERY_ROW) -> Tensor:
        """Return ε of some rows of a weight, in float32 or the weight's type if that is more."""
        noise = self._noise.rows(place, rows).to(torch.promote_types(dtype, torch.float32))
        return noise / self.norm if self._std is None else self._std * noise
