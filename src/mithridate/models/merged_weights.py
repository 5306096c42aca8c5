"""The merged weights of a model: every floating weight under its plain name, LoRA merged in, one at a time."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mithridate.errors import DefenseError, ModelError
from mithridate.models.decoder import layer_of
from mithridate.models.lora import LoraFactors, is_transposed
from mithridate.models.preconditions import require_no_bias, require_plain_values, require_unquantized
from mithridate.models.submodules import submodules
from mithridate.models.tensor_files import EVERY_ROW
from mithridate.models.undo import overwrite

T = TypeVar("T")
Work = Callable[[str, slice], T]
"""From a weight's name and some of its rows to anything."""


class Block(NamedTuple, Generic[T]):
    """Some rows of a weight.

    Attributes:
        name: Plain name.
        rows: Which rows.
        result: What was made of them.
    """

    name: str
    rows: slice
    result: T


class _Stored(NamedTuple):
    """Where a merged weight lies.

    Attributes:
        parameter: The weight itself, the base weight where LoRA wraps the layer.
        lora: The LoRA factors on it; None where there are none.
    """

    parameter: Tensor
    lora: LoraFactors | None


class MergedWeights:
    """θ, read and written tensor by tensor, so that no second copy of the model is needed.

    Args:
        model: A causal language model, PEFT or plain.

    Attributes:
        adapted: Whether LoRA is merged in.
        matrices: Linear layers of the decoder blocks by the plain name of their weight, in the model's order.

    Raises:
        DefenseError: If weights are quantized or offloaded, or the adapter is not one active LoRA or DoRA.
    """

    def __init__(self, model: nn.Module) -> None:
        require_unquantized(model)
        self._stored: dict[str, _Stored] = {}
        self.matrices: dict[str, nn.Module] = {}
        # Tied weights, such as the embeddings that the head uses again, are one weight under their first name.
        seen: dict[int, _Stored] = {}
        for submodule in submodules(model):
            for own, parameter in submodule.module.named_parameters(recurse=False):
                name = f"{submodule.name}.{own}" if submodule.name else own
                stored = _Stored(parameter, submodule.lora if own == "weight" else None)
                if submodule.lora is not None:
                    # A bias of B adds to the output, and no weight of the layer could take it up.
                    require_no_bias(submodule.lora)
                if _is_new(stored, seen, submodule.path):
                    self._require_values(name, parameter)
                    seen[id(parameter)] = self._stored[name] = stored
                    if own == "weight" and isinstance(submodule.module, (nn.Linear, Conv1D)) and layer_of(name):
                        self.matrices[name] = submodule.module
        self.adapted = bool(self.adapted_layers)

    @property
    def names(self) -> list[str]:
        """Plain names of all weights, in the model's order."""
        return list(self._stored)

    @property
    def adapted_layers(self) -> dict[str, nn.Module]:
        """The layers that LoRA wraps, by the plain name of their weight."""
        return {name: stored.lora.base for name, stored in self._stored.items() if stored.lora is not None}

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape as stored."""
        return tuple(self._stored[name].parameter.shape)

    def dtype(self, name: str) -> torch.dtype:
        """Type as stored."""
        return self._stored[name].parameter.dtype

    @torch.no_grad()
    def base(self, name: str, device: torch.device | None = None, rows: slice = EVERY_ROW) -> Tensor:
        """Return a float64 copy of W, without LoRA, in the stored orientation."""
        value = self._value(name, rows)
        # In float64: differences of nearby models are small beside the weights themselves.
        return value.to(device or value.device, torch.float64, copy=True)

    def read(self, name: str, device: torch.device | None = None, rows: slice = EVERY_ROW) -> Tensor:
        """Return a float64 copy of W + scale·B·A (of m·V/‖V‖ under DoRA), in the stored orientation."""
        lora = self._stored[name].lora
        return self.base(name, device, rows) if lora is None else some(lora.merged(self.base(name, device)), rows)

    def held(self, name: str, rows: slice = EVERY_ROW) -> Tensor:
        """Return what `read` does, but in whatever type it is had in, unchecked, and maybe the weight itself."""
        return self._value(name, rows) if self._stored[name].lora is None else self.read(name, rows=rows)

    def each(self, names: Sequence[str], done: Any, in_order: bool = False) -> Iterator[str]:
        """Yield the weights that are to be written; each is written before the next one is asked for.

        Args:
            names: Plain names, in the model's order.
            done: Where what changes is counted.
            in_order: Whether they must come in that order, and not in that of the files they are in.
        """
        yield from names

    def each_block(self, names: Sequence[str], done: Any, work: Work[T]) -> Iterator[Block[T]]:
        """Yield all rows of the weights that are to be written, with what some work makes of them.

        Args:
            names: Plain names.
            done: Where what changes is counted.
            work: Takes a weight's name and rows of it. It may be called in other threads, and for some blocks before
                others have been written.
        """
        for name in self.each(names, done):
            yield Block(name, EVERY_ROW, work(name, EVERY_ROW))

    def pieces(self, values: Tensor) -> Iterator[slice]:
        """Yield the rows to work on at a time, so that what comes in between stays in a processor's cache."""
        yield EVERY_ROW

    def differs(self, other: "MergedWeights", name: str) -> bool:
        """Return whether a weight is another one in the other model, for a name in ``matrices``."""
        return bool(self.change_from(other, name).any())

    def matrix(self, name: str, device: torch.device | None = None) -> Tensor:
        """Return a float64 copy of W + scale·B·A as (outputs, inputs), for a name in ``matrices``."""
        return self.turned(name, self.read(name, device))

    def change_from(self, other: "MergedWeights", name: str) -> Tensor:
        """These weights less another model's, (outputs, inputs) float64, for a name in ``matrices``."""
        own = self.matrix(name)
        return own - other.matrix(name, own.device)

    def turned(self, name: str, values: Tensor) -> Tensor:
        """From the stored orientation to (outputs, inputs), and back."""
        return values.T if is_transposed(self.matrices[name]) else values

    def write(self, name: str, values: Tensor, rows: slice = EVERY_ROW) -> None:
        """Set a merged weight: the base weight takes the values, and the adapter on it leaves them as they are.

        Args:
            name: Plain name.
            values: The values, in the weight's type.
            rows: The rows they are.

        Raises:
            DefenseError: If a DoRA layer, which divides by the norm of each output row, were to hold a row of zeros.
        """
        parameter, lora = self._stored[name]
        overwrite(parameter, values)
        if lora is not None:
            second = lora.factors[1]
            # B = 0 makes ΔW = 0, so that the base weight alone is the merged one.
            overwrite(second, torch.zeros_like(second))
            if lora.magnitude is not None:
                # DoRA still divides by ‖W‖, so m must be that norm again.
                overwrite(lora.magnitude, _norms(name, parameter, lora))

    def _require_values(self, name: str, parameter: Tensor) -> None:
        require_plain_values(name, parameter)

    def _value(self, name: str, rows: slice) -> Tensor:
        """Return W as it is stored, without LoRA; it may be the weight itself."""
        return some(self._stored[name].parameter.detach(), rows)

    def require_like(self, other: "MergedWeights", called: str) -> None:
        """Refuse a model of another architecture.

        Raises:
            ModelError: Naming a weight that is missing or has another shape.
        """
        for having, lacking, where in ((self, other, f"{called}= model"), (other, self, "model to repair")):
            missing = [name for name in having.names if name not in lacking._stored]
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


def some(value: Tensor, rows: slice) -> Tensor:
    """Return some rows of a tensor, or all of it, also where it is a single number."""
    return value if rows == EVERY_ROW else value[rows]


def _is_new(stored: _Stored, seen: dict[int, _Stored], path: str) -> bool:
    """Return whether the weight was not met before; one that was must not have LoRA on it in either place."""
    before = seen.get(id(stored.parameter))
    if before is not None and (before.lora is not None or stored.lora is not None):
        raise DefenseError(f"the weight of {path} is tied to another one; untie or merge the adapter first")
    return before is None


@torch.no_grad()
def _norms(name: str, weight: Tensor, lora: LoraFactors) -> Tensor:
    """DoRA's magnitudes that leave a weight as it is: ‖W‖ by output row, by PEFT's own arithmetic."""
    # PEFT's own arithmetic, so that m/‖W‖ is exactly 1 when it runs.
    layer = lora.module.lora_magnitude_vector[lora.adapter]
    norms: Tensor = layer.get_weight_norm(weight, torch.zeros((), dtype=weight.dtype, device=weight.device), 1.0)
    if not bool(norms.all()):
        raise DefenseError(
            f"the repair leaves an output row of '{name}' at zero, whose direction DoRA cannot hold; "
            "merge the adapter first (model.merge_and_unload())"
        )
    return norms
