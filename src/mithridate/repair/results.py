"""What a post-tuning defense reports beside its changes."""

from pydantic import BaseModel


class DosePoint(BaseModel):
    """One dose that was tried.

    Attributes:
        dose: Mask ratio or radius.
        user_loss: Mean token loss on the held-out rows, in nats.
        rise: Rise of the loss of held-out rows that the budget limits, in nats per token.
        harmful_loss: Mean token loss on the harmful rows, in nats.
    """

    dose: float
    user_loss: float
    rise: float
    harmful_loss: float


class DoseCurve(BaseModel):
    """How the largest dose within the budget was found."""

    parameter: str
    chosen: float
    budget: float
    points: list[DosePoint]


class LayerProfile(BaseModel):
    """Norm of a displacement per layer.

    Attributes:
        layers: Names of the layers, in the model's order.
        factor_norm: L2 norm over the displaced parameters themselves (LoRA factors, where there are some).
        delta_norm: Frobenius norm of the change of the effective weight matrices, ΔW.
    """

    layers: list[str]
    factor_norm: list[float]
    delta_norm: list[float]
