"""How far a displacement moves each decoder block."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mithridate.models.decoder import layer_of
from mithridate.models.lora import LoraFactors
from mithridate.models.quantized_base import values
from mithridate.models.submodules import submodules
from mithridate.repair.repaired import LayerProfile
from mithridate.repair.tally import Tally


@torch.no_grad()
def layer_profile(model: nn.Module, before: Mapping[str, Tensor]) -> LayerProfile:
    """Return the norm of the change per decoder block, of the displaced parameters and of the merged weights.

    ``factor_norm`` is the L2 norm over the displaced parameters; ``delta_norm`` the Frobenius norm of the change
    of the merged weights, which does not depend on how ΔW is split into factors. The model holds the displaced
    weights; those before are read from the displacement.
    """
    found = dict(model.named_parameters())
    # By identity, which is how the factors of a layer are found again below.
    old = {id(found[name]): base.to(found[name].device) for name, base in before.items()}
    loras = [submodule.lora for submodule in submodules(model) if submodule.lora is not None]
    factors = {id(parameter) for lora in loras for parameter in lora.parameters}
    moved, whole, delta = Tally(), Tally(), Tally()
    for name, base in before.items():
        moved.add(name, base.to(found[name].device), found[name])
        # A weight that is no factor changes by itself; the factors of a layer change their product together.
        if id(found[name]) not in factors:
            whole.add(name, base.to(found[name].device), found[name])
    for lora in loras:
        base_weight = _base(lora)
        after = lora.merged(base_weight)
        delta.add(lora.name + ".", lora.merged(base_weight, lambda p: old.get(id(p), p)), after)
    squares = [tally.by_layer() for tally in (moved, whole, delta)]
    layers = sorted({layer for layer in map(layer_of, before) if layer is not None}, key=int)
    return LayerProfile(
        layers=layers,
        factor_norm=[squares[0].get(layer, 0.0) ** 0.5 for layer in layers],
        delta_norm=[(squares[1].get(layer, 0.0) + squares[2].get(layer, 0.0)) ** 0.5 for layer in layers],
    )


def _base(lora: LoraFactors) -> Tensor:
    """W, float64, where the change of a merged weight depends on it, as under DoRA; else zero."""
    # Without a magnitude W cancels out of the change, so it is neither read nor dequantized.
    if lora.magnitude is None:
        return torch.zeros((), dtype=torch.float64, device=lora.factors[0].device)
    return values(lora.base).detach().double()
