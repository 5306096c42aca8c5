"""Models with all their modules and none of their weights, and the adapters that fit them."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import init_empty_weights
from peft import PeftModel, load_peft_weights
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM

from mithridate.errors import ModelError
from mithridate.model_names import loading_errors
from mithridate.models.loading import Where, stored_dtype
from mithridate.models.modes import is_half


class EmptyModel(NamedTuple):
    """A model whose weights stay on disk.

    Attributes:
        model: The model, PEFT or plain; the base's parameters are on the meta device, the adapter's hold their values.
        dtype: Type in which it would be loaded.
    """

    model: Any
    dtype: torch.dtype


def empty_model(where: Where, folder: Path) -> EmptyModel:
    """Make a model from its settings, and load the adapter on it if there is one.

    Args:
        where: The model, and its adapter.
        folder: Folder of the base.

    Raises:
        ModelError: If the settings or the adapter cannot be read.
    """
    dtype = stored_dtype(str(folder))
    try:
        settings = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        # Buffers, such as the angles of rotary embeddings, are in no file and must be computed.
        with _Unallocated(), init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(settings, dtype=dtype, trust_remote_code=False)
        model.tie_weights()
        if where.adapter is not None:
            model = _with_adapter(model, where.adapter)
    except loading_errors() as error:
        said = " ".join(str(error).split())[:200]
        raise ModelError(f"no model can be made from the settings in {where.adapter or folder}: {said}") from error
    for name, buffer in model.named_buffers():
        if buffer.is_meta:
            raise ModelError(f"the buffer {name} of {folder} cannot be computed without its weights; repair in memory")
    return EmptyModel(model.eval(), dtype)


class _Unallocated(TorchFunctionMode):
    """Inside its block weights take no memory even for the moment in which they are made, nor any address."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # Layers make their weights by torch.empty; buffers are computed by other functions, and need their values.
        given = dict(kwargs or {}) | ({"device": "meta"} if func is torch.empty else {})
        return func(*args, **given)


def _with_adapter(model: Any, adapter: str) -> PeftModel:
    values = load_peft_weights(adapter, device="cpu")
    for name, value in values.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ModelError(f"the weights hold NaN or Inf ({name} in {adapter}): load or train the model again")
    # As PEFT does when a whole model is loaded: what is not half precision throughout becomes float32.
    widen = not all(is_half(value) for value in values.values())
    found = PeftModel.from_pretrained(
        model, adapter, low_cpu_mem_usage=True, torch_device="cpu", autocast_adapter_dtype=widen
    )
    used = set()
    for path, module in found.named_modules():
        for own, parameter in module._parameters.items():
            name = next((name for name in _names_in_file(f"{path}.{own}") if name in values), None)
            if name is not None and parameter is not None and f".{_ADAPTER}" in f"{path}.{own}":
                used.add(name)
                if parameter.is_meta:
                    # PEFT moves what it has loaded to the base's device, which holds no values here.
                    value = values[name].float() if widen and is_half(values[name]) else values[name]
                    module._parameters[own] = nn.Parameter(value, requires_grad=parameter.requires_grad)
    if unknown := sorted(values.keys() - used):
        raise ModelError(
            f"{adapter} also holds {unknown[0]}, which is no part of a LoRA; load model and adapter, merge them, "
            "and save the whole model"
        )
    return found


_ADAPTER = "default"
"""What PEFT calls an adapter that it loads without a name."""


def _names_in_file(name: str) -> tuple[str, ...]:
    """Return what a parameter may be called in an adapter's file, where its adapter's name is left out."""
    plain = name.replace(f".modules_to_save.{_ADAPTER}", "").replace(f".{_ADAPTER}", "")
    # DoRA's magnitudes lose the end of their name as well.
    return plain, plain.removesuffix(".weight")
