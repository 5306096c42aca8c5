"""A displacement of finished weights whose scale can be changed later."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mithridate.errors import CheckpointError, ModelError
from mithridate.repair.results import LayerProfile
from mithridate.repair.target import lora_layers
from mithridate.training.decoder import layer_of
from mithridate.training.gradient import Gradient
from mithridate.training.weights import Weights


class Displacement:
    """w = base + scale·ε, with base and ε kept.

    Args:
        names: Names of the displaced parameters.
        base: Their values before.
        epsilon: ε, one tensor per parameter.
        scale: Present scale.
    """

    def __init__(self, names: list[str], base: list[Tensor], epsilon: Gradient, scale: float = 1.0) -> None:
        self.names = names
        self.base = base
        self.epsilon = epsilon
        self.scale = scale

    def apply(self, model: nn.Module, scale: float) -> None:
        """Set the model's weights to base + scale·ε; scale 0 gives the base back bit for bit.

        Raises:
            ModelError: If the model lacks one of the displaced weights.
        """
        missing = set(self.names) - {name for name, _ in model.named_parameters()}
        if missing:
            raise ModelError(f"the displacement was made for another model: '{min(missing)}' is not one of its weights")
        weights = Weights(model, self.names)
        weights.restore(self._ordered(weights, self.base))
        if scale != 0:
            weights.add(scale * Gradient(self._ordered(weights, self.epsilon.tensors)))
        self.scale = scale

    def _ordered(self, weights: Weights, tensors: list[Tensor]) -> list[Tensor]:
        """One tensor per weight in the model's order, which a stored file does not keep."""
        by_name = dict(zip(self.names, tensors, strict=True))
        return [by_name[n].to(p.device) for n, p in zip(weights.names, weights.parameters, strict=True)]

    def save(self, path: Path) -> None:
        """Write base, ε and scale as one safetensors file."""
        tensors = {f"base/{name}": tensor for name, tensor in zip(self.names, self.base, strict=True)}
        tensors |= {f"epsilon/{n}": t for n, t in zip(self.names, self.epsilon.tensors, strict=True)}
        save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, path, {"scale": repr(self.scale)})

    @classmethod
    def load(cls, path: Path) -> "Displacement":
        """Read what ``save`` wrote.

        Raises:
            CheckpointError: If the file is missing or damaged.
        """
        try:
            with safe_open(path, framework="pt") as file:
                keys: list[str] = list(file.keys())
                names = [key.removeprefix("base/") for key in keys if key.startswith("base/")]
                base = [file.get_tensor(f"base/{name}") for name in names]
                epsilon = Gradient([file.get_tensor(f"epsilon/{name}") for name in names])
                scale = float((file.metadata() or {})["scale"])
        except (OSError, SafetensorError, KeyError) as error:
            raise CheckpointError(f"{path} is no complete displacement ({error}); repair the model again") from error
        return cls(names, base, epsilon, scale)


@torch.no_grad()
def layer_profile(model: nn.Module, displacement: Displacement) -> LayerProfile:
    """Norm of the applied displacement per decoder block, over LoRA factors and over ΔW.

    ``factor_norm`` is the L2 norm over the displaced parameters; ``delta_norm`` the Frobenius norm of the change
    of the effective weights, which does not depend on how ΔW is split into factors.
    """
    change = dict(zip(displacement.names, (displacement.scale * displacement.epsilon).tensors, strict=True))
    factor: dict[str, float] = {}
    for name, tensor in change.items():
        _add_square(factor, layer_of(name), tensor)
    delta: dict[str, float] = {}
    if any(".lora_" in name for name in displacement.names):
        after = {lora.name: lora.delta() for lora in lora_layers(model)}
        scale = displacement.scale
        displacement.apply(model, 0.0)
        before = {lora.name: lora.delta() for lora in lora_layers(model)}
        displacement.apply(model, scale)
        for name, matrix in after.items():
            _add_square(delta, layer_of(name + "."), matrix - before[name])
    for name, tensor in change.items():
        if ".lora_" not in name:
            _add_square(delta, layer_of(name), tensor)
    layers = sorted(factor, key=int)
    return LayerProfile(
        layers=layers,
        factor_norm=[factor[layer] ** 0.5 for layer in layers],
        delta_norm=[delta[layer] ** 0.5 for layer in layers],
    )


def _add_square(sums: dict[str, float], layer: str | None, tensor: Tensor) -> None:
    if layer is not None:
        sums[layer] = sums.get(layer, 0.0) + float(tensor.double().square().sum())
