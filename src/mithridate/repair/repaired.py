"""What a post-tuning defense reports beside its changes."""

from typing import Any

from pydantic import BaseModel, PrivateAttr


class DoseTrial(BaseModel):
    """One dose that was tried.

    Attributes:
        dose: The strength.
        user_loss: Mean token loss on the held-out rows, in nats.
        rise: Rise of the loss of held-out rows that the budget limits, in nats per token.
        harmful_loss: Mean token loss on the harmful rows, in nats; None where none were given.
    """

    dose: float
    user_loss: float
    rise: float
    harmful_loss: float | None


class DoseSearch(BaseModel):
    """How the largest dose within the budget was found."""

    parameter: str
    chosen: float
    budget: float
    points: list[DoseTrial]


class LayerChanges(BaseModel):
    """Norm of a displacement per layer.

    Attributes:
        layers: Names of the layers, in the model's order.
        factor_norm: L2 norm over the displaced parameters themselves (LoRA factors, where there are some).
        delta_norm: Frobenius norm of the change of the merged weight matrices, ΔW.
    """

    layers: list[str]
    factor_norm: list[float]
    delta_norm: list[float]


class Repaired(BaseModel):
    """What a post-tuning defense changed.

    Attributes:
        changed: Number of weights that were changed.
        distance: L2 norm of the change of the weights the defense acts on.
        activity: Figures that prove that the defense acted.
        dose_curve: Doses tried, where the strength was ``"auto"``.
        layer_profile: Norm of the change per layer, where the defense is a displacement.
        merged: Whether the adapter was merged into the base weights, which must then be saved too.
    """

    changed: int
    distance: float
    activity: dict[str, float] = {}
    dose_curve: DoseSearch | None = None
    layer_profile: LayerChanges | None = None
    merged: bool = False
    _displacement: Any = PrivateAttr(default=None)

    def with_displacement(self, displacement: Any) -> "Repaired":
        """Attach the displacement, so that its scale can be changed later."""
        self._displacement = displacement
        return self

    @property
    def displacement(self) -> Any:
        """The `Displacement` that was applied; None where the defense is none."""
        return self._displacement
