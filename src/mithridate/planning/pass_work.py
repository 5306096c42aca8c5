"""Work and memory of a forward and a backward pass, counted on a model without weights (torch's meta device)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from mithridate.errors import ModelError, RecipeError
from mithridate.experiment.recipe_parts import LoraSettings
from mithridate.model_names import loading_errors
from mithridate.models.quantized_base import BITS, Quantization
from mithridate.planning.row_tokens import Padded

LENGTHS = (32, 96)
"""Tokens of the two rows that are counted. Work is c₁·t + c₂·t² of a row's t tokens, so that two tell both."""


class Polynomial(NamedTuple):
    """c₁·t + c₂·t² of a row's t tokens."""

    linear: float
    quadratic: float

    def at(self, length: Padded) -> float:
        """Return the mean over batches that are padded to some lengths."""
        return self.linear * length.mean + self.quadratic * length.square


class PassWork(NamedTuple):
    """What passes of one row cost.

    Attributes:
        forward: Floating-point operations of a forward pass.
        backward: The same of a backward pass.
        saved: Bytes of tensors kept for the backward pass for each token, without matrices of attention, which fused
            kernels never hold.
        parameters: Weights of the model, without an adapter.
        trainable: Weights that are trained.
        weight_bytes: Bytes of all weights, an adapter included.
        quantized_bytes: Bytes of those that are quantized, scales included.
        block_bytes: Bytes of the largest decoder block, which FSDP gathers as a whole.
        blocks: Decoder blocks.
        width: Features of a token between blocks.
        vocabulary: Words that the head tells apart.
        linears: Outputs and inputs of each linear layer that is trained: those with an adapter, or all of the blocks.
    """

    forward: Polynomial
    backward: Polynomial
    saved: float
    parameters: int
    trainable: int
    weight_bytes: int
    block_bytes: int
    blocks: int
    width: int
    vocabulary: int
    quantized_bytes: int = 0
    linears: tuple[tuple[int, int], ...] = ()


def pass_work(config: Any, dtype: torch.dtype, lora: LoraSettings | None, quantize: Quantization = "none") -> PassWork:
    """Count the work of a model with this architecture.

    Args:
        config: The model's settings.
        dtype: Type of its weights.
        lora: The adapter that is trained, in float32; None to train all weights.
        quantize: How the base's linear layers are held.

    Raises:
        ModelError: If no model can be made of the settings.
        RecipeError: If the adapter fits no layer.
    """
    model = _on_meta(config, dtype)
    parameters = sum(p.numel() for p in model.parameters())
    # As bitsandbytes does, all linear layers but the head.
    linear = [m.weight for m in model.modules() if isinstance(m, nn.Linear) and m is not model.get_output_embeddings()]
    bits = BITS[quantize]
    freed = 0 if bits is None else sum(weight.numel() * weight.element_size() for weight in linear)
    quantized = 0 if bits is None else round(sum(weight.numel() for weight in linear) * bits / 8)
    blocks, width = _blocks(model), int(model.get_input_embeddings().weight.shape[1])
    block_bytes = max((_bytes(block) for block in blocks), default=_bytes(model))
    table = model.get_output_embeddings().weight
    vocabulary, head = int(table.shape[0]), int(table.numel())
    if lora is not None:
        model = adapted(model, lora)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    counts = [_counted(model, length) for length in LENGTHS]
    forward = _fitted([count.forward for count in counts])
    backward = _fitted([count.backward for count in counts])
    # The head's weight is trained only with all others. TRL's head computes its logits again in the backward pass.
    again = 3 if lora is None else 2
    return PassWork(
        forward=forward._replace(linear=forward.linear + 2 * head),
        backward=backward._replace(linear=backward.linear + 2 * head * again),
        saved=_fitted([count.saved for count in counts]).linear,
        parameters=parameters,
        trainable=trainable,
        weight_bytes=_bytes(model) - freed + quantized,
        block_bytes=block_bytes,
        blocks=len(blocks),
        width=width,
        vocabulary=vocabulary,
        quantized_bytes=quantized,
        linears=_linears(model, blocks, lora is not None),
    )


class _Count(NamedTuple):
    forward: float
    backward: float
    saved: float


def _counted(model: Any, length: int) -> _Count:
    """Count one row's passes through everything but the head."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    ids = torch.zeros(1, length, dtype=torch.long, device="meta")
    # Given whole, since transformers looks into the values of the usual one, and these tensors have none.
    mask = torch.zeros(1, 1, length, length, dtype=torch.bool, device="meta")
    with FlopCounterMode(display=False) as forward, _kept(model) as saved:
        hidden = causal.base_model(input_ids=ids, attention_mask=mask, use_cache=False)[0]
    with FlopCounterMode(display=False) as backward:
        hidden.float().sum().backward()
    return _Count(forward.get_total_flops(), backward.get_total_flops(), sum(saved.values()))


@contextmanager
def _kept(model: nn.Module) -> Iterator[dict[int, int]]:
    """Inside the block the bytes of tensors that are kept for a backward pass, by storage; weights do not count."""
    held: list[Tensor] = []  # so that no storage's number is given to another one
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            held.append(tensor)
            found[storage._cdata] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        yield found


def _fitted(values: list[float]) -> Polynomial:
    """Return c₁ and c₂ from the values at two lengths."""
    (a, b), (x, y) = LENGTHS, values
    quadratic = (y / b - x / a) / (b - a)
    return Polynomial(x / a - quadratic * a, quadratic)


def _on_meta(config: Any, dtype: torch.dtype) -> Any:
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    except loading_errors() as error:
        raise ModelError(f"no model can be made of its config.json: {' '.join(str(error).split())[:300]}") from error
    return model.train()


def adapted(model: Any, lora: LoraSettings, place: str = "meta") -> Any:
    """Return the model with an adapter.

    Args:
        model: The model.
        lora: The adapter.
        place: Device of its weights.

    Raises:
        RecipeError: If it fits no layer.
    """
    wanted = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        task_type="CAUSAL_LM",
    )
    try:
        with torch.device(place):
            return get_peft_model(model, wanted)
    except ValueError as error:
        raise RecipeError(f"lora: the adapter does not fit the model: {str(error)[:200]}") from error


def _blocks(model: nn.Module) -> list[nn.Module]:
    """Return the members of the longest list of modules, which are the decoder blocks."""
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=[])


def _linears(model: nn.Module, blocks: list[nn.Module], adapted: bool) -> tuple[tuple[int, int], ...]:
    found = model.modules() if adapted else (module for block in blocks for module in block.modules())
    kind = LoraLayer if adapted else nn.Linear
    return tuple((int(one.out_features), int(one.in_features)) for one in found if isinstance(one, kind))


def _bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())
