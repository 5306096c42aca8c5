"""What a post-tuning defense reports beside its changes."""

from typing import Any

from pydantic import BaseModel, PrivateAttr


class DosePoint(BaseModel):
    """One dose that was tried.

    Attributes:
        dose: The strength.
        user_loss: Mean token loss on the held-out rows, in nats.
        rise: Rise of the loss of the held-out rows, without those that rise most, in nats per token.
        harmful_loss: Mean token loss on the harmful rows, in nats; None where none were given.
        safe_loss: Mean token loss on the provider's safe rows, in nats; None where none were given.
        safe_rise: Rise of the loss of the kind of safe rows that rises most, in nats per token.
        refused_rise: Rise of the share of harmless safe rows that are refused; None where it was not asked for.
    """

    dose: float
    user_loss: float
    rise: float
    harmful_loss: float | None
    safe_loss: float | None = None
    safe_rise: float | None = None
    refused_rise: float | None = None


class DoseCurve(BaseModel):
    """How the largest dose within the budgets was found.

    Attributes:
        parameter: Name of the setting.
        chosen: The dose that was found.
        budget: Largest rise allowed on the held-out rows, in nats per token.
        safe_budget: The same on the provider's safe rows; None where none were given.
        over_refusal_budget: Largest rise allowed of the share of harmless safe rows that are refused; likewise.
        points: Doses that were tried, in rising order.
    """

    parameter: str
    chosen: float
    budget: float
    safe_budget: float | None = None
    over_refusal_budget: float | None = None
    points: list[DosePoint]


class LayerProfile(BaseModel):
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
        rows_trained: Rows that it trained on, those of its search included; None where it does not train.
        dose_curve: Doses tried, where the strength was ``"auto"``.
        layer_profile: Norm of the change per layer, for displacements and rewritten weights; None otherwise.
        merged: Whether the adapter was merged into the base weights, which must then be saved too.
    """

    changed: int
    distance: float
    activity: dict[str, float] = {}
    rows_trained: int | None = None
    dose_curve: DoseCurve | None = None
    layer_profile: LayerProfile | None = None
    merged: bool = False
    # Private, so that a report's JSON has no tensors; Any, because displacement.py imports this module.
    _displacement: Any = PrivateAttr(default=None)

    def with_displacement(self, displacement: Any) -> "Repaired":
        """Attach the displacement, so that its scale can be changed later."""
        self._displacement = displacement
        return self

    @property
    def displacement(self) -> Any:
        """The `Displacement` that was applied; None if the defense is not a displacement."""
        return self._displacement
