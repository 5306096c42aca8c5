"""Random perturbation: the control of Panacea's paper, a displacement without a direction.

Source: Wang et al., "Panacea", NeurIPS 2025 (arXiv 2501.18100), Figure 4: w ← w + N(0, std²) per adapter entry.
Matched form: w ← w + ρ·n/‖n‖ with Gaussian n, the same length as Panacea's ε at the same ρ; a fairer control that
the paper does not have (std 0.01 over 25 M entries already has norm 50, against ρ = 1).

Cost: none. Difference from the released code: the noise is added once, not at every evaluation on top of itself.
"""

from collections.abc import Sequence
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from mithridate.defenses.panacea import Panacea
from mithridate.defenses.registry import register
from mithridate.models.merged_weights import some
from mithridate.models.submodules import is_adapted
from mithridate.repair.displacement import Displacement, displace, displace_stored
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
        generator = torch.Generator().manual_seed(self.seed)
        noise = Gradient([_draw(parameter, generator) for parameter in weights.parameters])
        # Per entry as in the paper's figure, or with Panacea's own length.
        epsilon = self.std * noise if self.std is not None else noise.unit()
        norm = epsilon.norm() if radius is None else radius
        displacement = Displacement(weights.names, weights.snapshot(), epsilon, 0.0)
        return displace(inputs.model, displacement, 1.0 if radius is None else radius, norm, {"norm": norm})

    def change_stored(self, inputs: StoredInputs) -> Repaired:
        """Displace an adapter, which is in memory, as ever; whole weights one at a time, each drawn once more."""
        if is_adapted(inputs.model):
            return self.change(inputs)
        weights, generator = inputs.tuned.weights, torch.Generator().manual_seed(self.seed)
        states, norms = {}, []
        # The noise of all weights would be another model in memory; where each one's begins suffices to draw it again.
        for name in weights.names:
            states[name] = generator.get_state()
            noise = _noise(weights.shape(name), weights.dtype(name), generator)
            norms.append(Gradient([noise if self.std is None else self.std * noise]).norm())
        norm = float(torch.tensor(norms, dtype=torch.float64).square().sum().sqrt())

        @lru_cache(maxsize=2)
        def drawn(name: str) -> Tensor:
            generator.set_state(states[name])
            noise = _noise(weights.shape(name), weights.dtype(name), generator)
            return noise / norm if self.std is None else self.std * noise

        # Drawn whole and asked for in rows, one weight after the other but by many threads.
        turn = Lock()

        def epsilon(name: str, rows: slice) -> Tensor:
            with turn:
                return some(drawn(name), rows)

        intended = norm if self.radius is None else float(self.radius)
        scale = 1.0 if self.radius is None else intended
        return displace_stored(weights, weights.names, epsilon, scale, intended, {"norm": intended})

    def _panacea_radius(self, inputs: RepairInputs) -> float:
        # Budget, trim and the like as well, or the search would not be the one that Panacea makes.
        shared = {name: getattr(self, name) for name in Repair.model_fields}
        curve = Panacea(radius="auto", **shared).aim(inputs).curve
        assert curve is not None
        return curve.chosen


def _draw(parameter: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard Gaussian noise, drawn in float32 on the CPU: the same for every precision and device."""
    return _noise(parameter.shape, parameter.dtype, generator).to(parameter.device)


def _noise(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    noise = torch.randn(tuple(shape), generator=generator, dtype=torch.float32, device="cpu")
    return noise.to(torch.promote_types(dtype, torch.float32))
