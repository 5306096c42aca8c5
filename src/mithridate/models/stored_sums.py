"""Sums over the activations that enter the layers of a model on disk, over calibration rows."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from mithridate.models.activation_sums import Term, products, require_reached, squares, summing
from mithridate.models.batches import Batch, collate, of_equal_length
from mithridate.models.blockwise import Blockwise
from mithridate.models.stored_weights import StoredWeights
from mithridate.models.tokenization import TokenizedRow


def stored_norms(
    weights: StoredWeights, dtype: torch.dtype, layers: Mapping[str, nn.Module], examples: Sequence[TokenizedRow]
) -> dict[str, Tensor]:
    """Return what `input_norms` does of the same model in memory.

    Args:
        weights: The model on disk.
        dtype: Type in which it computes.
        layers: Layers whose inputs are measured, by name.
        examples: Calibration rows.
    """
    sums: dict[str, Tensor] = {}
    for part in _sums_by_block(weights, dtype, layers, examples, squares):
        sums |= part
    require_reached(layers, sums)
    return {name: (sums[name] / len(examples)).sqrt() for name in layers}


class StoredGrams:
    """X·Xᵀ of each layer's inputs, as `input_grams` returns them, computed block by block as they are asked for.

    Args:
        weights: The model on disk.
        dtype: Type in which it computes.
        layers: Layers whose inputs are measured, by name.
        examples: Calibration rows.
    """

    def __init__(
        self,
        weights: StoredWeights,
        dtype: torch.dtype,
        layers: Mapping[str, nn.Module],
        examples: Sequence[TokenizedRow],
    ) -> None:
        self._parts = _sums_by_block(weights, dtype, layers, examples, products)
        self._layers = layers
        self._present: dict[str, Tensor] = {}

    def pop(self, name: str, /) -> Tensor:
        """Return the sum of a layer and forget it, and with it those of all blocks before the layer's.

        Raises:
            DefenseError: If no activation reached the layer.
        """
        while name not in self._present:
            part = next(self._parts, None)
            if part is None:
                require_reached({name: self._layers[name]}, {})
            else:
                # Those of one block at a time: a matrix of inputs² for every layer is more than the model.
                self._present = part
        return self._present.pop(name)


def _sums_by_block(
    weights: StoredWeights,
    dtype: torch.dtype,
    layers: Mapping[str, nn.Module],
    examples: Sequence[TokenizedRow],
    term: Term,
) -> Iterator[dict[str, Tensor]]:
    """Yield the sums of the layers in each decoder block, and at last those of the layers outside of them."""
    model = Blockwise(weights, dtype)
    # As in memory, so that every bit of a sum is the same.
    batches = [collate(rows, 0) for rows in of_equal_length(examples)]
    rest = dict(layers)
    with torch.no_grad(), model.embedding():
        hidden = [model.embed(batch) for batch in batches]
    for number, block in enumerate(model.blocks):
        own = {id(module) for module in block.modules()}
        inside = {name: rest.pop(name) for name, layer in layers.items() if id(layer) in own}
        with torch.no_grad(), model.block(number), summing(inside, term) as sums:
            hidden = _passed_on(model, batches, hidden)
        yield sums
        if not rest:
            return
    with torch.no_grad(), model.head(), summing(rest, term) as sums:
        for batch, state in zip(batches, hidden, strict=True):
            model.end(batch, state)
    yield sums


def _passed_on(model: Blockwise, batches: Sequence[Batch], hidden: list[Tensor]) -> list[Tensor]:
    for number, batch in enumerate(batches):
        # In place, so that no second set of activations is held.
        hidden[number] = model.pass_on(batch, hidden[number])
    return hidden
