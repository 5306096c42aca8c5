"""The effective weights of a model: every floating weight under its plain name, LoRA merged in, one at a time."""

from functools import cached_property
from typing import NamedTuple

import torch
from peft import PeftModel
from torch import Tensor, nn

from mithridate.errors import DefenseError, ModelError
from mithridate.repair.case import Case
from mithridate.repair.target import Lora, has_lora, is_transposed, linear_layers, lora_layers


class Place(NamedTuple):
    """Where an effective weight lies.

    Attributes:
        parameter: The weight itself, the base weight where LoRA wraps the layer.
        lora: The LoRA factors on it; None where there are none.
    """

    parameter: Tensor
    lora: Lora | None


class Effective:
    """θ, read and written tensor by tensor, so that no second copy of the model is needed.

    Args:
        model: A causal language model, PEFT or plain.

    Attributes:
        names: Plain names of the weights, in the model's order.
        adapted: Whether LoRA is merged in.

    Raises:
        DefenseError: If weights are quantized or offloaded, or the adapter is not one plain active LoRA.
    """

    def __init__(self, model: nn.Module) -> None:
        if getattr(getattr(model, "config", None), "quantization_config", None) is not None:
            raise DefenseError("the model is quantized; load it in bf16 to compare its weights")
        self._model = model
        self._active = tuple(model.active_adapters) if isinstance(model, PeftModel) else ()
        loras = _loras(model)
        self.adapted = bool(loras)
        self._places: dict[str, Place] = {}
        for name, parameter in model.named_parameters():
            plain = plain_name(name, self._active)
            if plain is not None:
                _require_plain_values(name, parameter)
                lora = loras.pop(name.removesuffix(".base_layer.weight"), None) if ".base_layer." in name else None
                self._places[plain] = Place(parameter, lora)
        if loras:
            raise DefenseError(f"the weight of {min(loras)} is tied to another one; untie or merge the adapter first")

    @property
    def names(self) -> list[str]:
        """Plain names of all weights, in the model's order."""
        return list(self._places)

    @cached_property
    def matrices(self) -> dict[str, nn.Module]:
        """Linear layers of the decoder blocks by the plain name of their weight, in the model's order."""
        named = {
            plain_name(f"{name}.weight", self._active): layer for name, layer in linear_layers(self._model).items()
        }
        return {name: layer for name, layer in named.items() if name is not None}

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape as stored."""
        return tuple(self._places[name].parameter.shape)

    def dtype(self, name: str) -> torch.dtype:
        """Type as stored."""
        return self._places[name].parameter.dtype

    @torch.no_grad()
    def read(self, name: str, device: torch.device | None = None) -> Tensor:
        """A float64 copy of W + scale·B·A, in the stored orientation."""
        parameter, lora = self._places[name]
        value = parameter.to(device or parameter.device, torch.float64, copy=True)
        return value if lora is None else value.add_(lora.delta().to(value))

    def matrix(self, name: str, device: torch.device | None = None) -> Tensor:
        """The same as (outputs, inputs), for a name in ``matrices``."""
        return self.turned(name, self.read(name, device))

    def turned(self, name: str, values: Tensor) -> Tensor:
        """From the stored orientation to (outputs, inputs), and back."""
        return values.T if is_transposed(self.matrices[name]) else values

    @torch.no_grad()
    def write(self, name: str, values: Tensor) -> None:
        """Set an effective weight: the base weight takes the values, and LoRA on it becomes zero."""
        parameter, lora = self._places[name]
        parameter.copy_(values)
        if lora is not None:
            lora.second.weight.zero_()

    @torch.no_grad()
    def raw(self, name: str) -> list[Tensor]:
        """Copies of the tensors that ``write`` changes."""
        return [tensor.detach().clone() for tensor in self._tensors(name)]

    @torch.no_grad()
    def restore(self, name: str, raw: list[Tensor]) -> None:
        """Put them back, bit for bit."""
        torch._foreach_copy_(self._tensors(name), raw)

    def _tensors(self, name: str) -> list[Tensor]:
        parameter, lora = self._places[name]
        return [parameter] if lora is None else [parameter, lora.second.weight]

    def require_like(self, other: "Effective", called: str) -> None:
        """Refuse a model of another architecture.

        Raises:
            ModelError: Naming a weight that is missing or has another shape.
        """
        for having, lacking, where in ((self, other, f"{called}= model"), (other, self, "model to repair")):
            missing = [name for name in having.names if name not in lacking._places]
            if missing:
                raise ModelError(
                    f"the {where} has no weight '{missing[0]}' (nor {len(missing) - 1} others); "
                    "give models of the same architecture"
                )
        for name in self.names:
            if self.shape(name) != other.shape(name):
                raise ModelError(
                    f"'{name}' has shape {self.shape(name)} in the model to repair, {other.shape(name)} in the "
                    f"{called}= model; give models of the same architecture and vocabulary"
                )


def compared(case: Case, *references: str) -> list[Effective]:
    """Effective weights of the model to repair and of the models it is compared with.

    Raises:
        DefenseError: If a reference is not given, or a model is quantized.
        ModelError: If the models' weights differ in name or shape.
    """
    tuned = Effective(case.model)
    others = [Effective(case.reference(name)) for name in references]
    for name, other in zip(references, others, strict=True):
        tuned.require_like(other, name)
    return [tuned, *others]


def plain_name(name: str, active: tuple[str, ...] = ()) -> str | None:
    """A parameter's name without PEFT's wrappers; None for what is no effective weight of its own.

    Args:
        name: Name in the model.
        active: Active adapters, whose ``modules_to_save`` stand for the modules they replace.
    """
    plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
    if ".modules_to_save." in plain:
        before, _, after = plain.partition(".modules_to_save.")
        adapter, _, rest = after.partition(".")
        return f"{before}.{rest}" if adapter in active else None
    return None if ".lora_" in plain or ".original_module." in plain else plain


def _loras(model: nn.Module) -> dict[str, Lora]:
    """LoRA factors by layer, all of them in use."""
    if not isinstance(model, PeftModel) and not has_lora(model):
        return {}
    loras = {lora.name: lora for lora in lora_layers(model)}
    for name, lora in loras.items():
        if lora.module.merged or lora.module.disable_adapters:
            raise DefenseError(f"the adapter on {name} is merged or disabled; unmerge and enable it first")
        if lora.second.bias is not None:
            raise DefenseError(f"the LoRA on {name} has a bias, so its update is not B·A; use one without lora_bias")
    return loras


def _require_plain_values(name: str, parameter: Tensor) -> None:
    if not parameter.is_floating_point() or parameter.element_size() < 2:
        raise DefenseError(f"{name} is quantized ({parameter.dtype}); load the model in bf16 to compare its weights")
    if parameter.is_meta:
        raise DefenseError(f"{name} is offloaded; load the whole model into memory to compare its weights")
