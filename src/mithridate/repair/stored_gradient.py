"""The gradient of the mean token loss of a model on disk: one decoder block in memory at a time, back and forth."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mithridate.errors import DefenseError
from mithridate.models.batches import Batch
from mithridate.models.blockwise import Blockwise
from mithridate.models.modes import in_float32
from mithridate.models.stored_weights import StoredWeights
from mithridate.repair.repairable import differentiable
from mithridate.repair.stored_vector import StoredVector
from mithridate.training.gradient import Gradient
from mithridate.training.scored_rows import ScoredRows
from mithridate.training.trainable_weights import Weights


class StoredGradient:
    """∇ [ Σ_i NLL_i / Σ_i |y_i| ] over all rows, computed in float32 at least.

    The forward passes keep what enters each block; the backward passes run a block again, from its kept input, with
    its weights in memory once more. Activations, and gradients of weights on disk, go to disk as well.

    Args:
        weights: The model on disk.
        dtype: Type of its weights.
        work: Folder for activations and gradients.
        adapter: The adapter's weights, which are in memory; None to differentiate by all weights on disk.
    """

    def __init__(self, weights: StoredWeights, dtype: torch.dtype, work: Path, adapter: Weights | None = None) -> None:
        self._weights, self._adapter = weights, adapter
        self._dtype = torch.promote_types(dtype, torch.float32)
        self._states = StoredVector(work / "activations")
        self._gradient = StoredVector(work / "gradient")
        self._tokens = 0

    def by_adapter(self, batches: Sequence[Batch]) -> Gradient:
        """Return the gradient by the adapter's weights."""
        adapter, model = self._adapter, self._weights.model
        assert adapter is not None
        with differentiable(model, adapter), in_float32(model):
            self._take(batches, frozenset())
            return Gradient(torch._foreach_div(adapter.take_grad(), self._tokens))

    def by_weights(self, batches: Sequence[Batch]) -> StoredVector:
        """Return the gradient by the weights on disk, by their plain names; those that no row uses are left out."""
        everything = frozenset(id(parameter) for parameter in self._weights.model.parameters())
        with in_float32(self._weights.model), torch.enable_grad():
            self._take(batches, everything)
        return self._gradient

    def _take(self, batches: Sequence[Batch], trained: frozenset[int]) -> None:
        model = Blockwise(self._weights, self._dtype, trained)
        hidden = self._forward(model, batches)
        slopes: list[Tensor] = []
        with model.head() as held:
            for batch, state in zip(batches, hidden, strict=True):
                slopes.append(self._slope_of_loss(model, batch, state))
            if not self._tokens:
                raise DefenseError("a gradient was asked for on rows without a single trained token")
            self._keep(held)
        for block in reversed(range(len(model.blocks))):
            with model.block(block) as held:
                for number, batch in enumerate(batches):
                    entering = self._states.take(_key(block, number)).requires_grad_()
                    model.pass_on(batch, entering).backward(slopes[number])  # type: ignore[no-untyped-call]
                    assert entering.grad is not None
                    slopes[number] = entering.grad
                self._keep(held)
        with model.embedding() as held:
            for batch, slope in zip(batches, slopes, strict=True):
                entering = model.embed(batch)
                # Under an adapter on the blocks alone nothing here takes gradients.
                if entering.requires_grad:
                    entering.backward(slope)  # type: ignore[no-untyped-call]
            self._keep(held)

    @torch.no_grad()
    def _forward(self, model: Blockwise, batches: Sequence[Batch]) -> list[Tensor]:
        """Return what leaves the last block, and keep what enters each."""
        with model.embedding():
            hidden = [model.embed(batch) for batch in batches]
        for block in range(len(model.blocks)):
            with model.block(block):
                for number, batch in enumerate(batches):
                    self._states.put(_key(block, number), hidden[number])
                    hidden[number] = model.pass_on(batch, hidden[number])
        return hidden

    def _slope_of_loss(self, model: Blockwise, batch: Batch, state: Tensor) -> Tensor:
        """Return ∂ Σ NLL / ∂ what leaves the last block, and add up the gradients of norm and head."""
        state = state.requires_grad_()
        output = model.end(batch, state)
        rows = ScoredRows(batch, output.log_probs, output.label_mask)
        self._tokens += int(rows.tokens.sum())
        rows.nll.sum().backward()  # type: ignore[no-untyped-call]
        assert state.grad is not None
        return state.grad

    def _keep(self, held: Mapping[str, nn.Parameter]) -> None:
        for name, parameter in held.items():
            if parameter.grad is not None:
                # Tied weights take part twice, as embedding and as head.
                self._gradient.add(name, parameter.grad / self._tokens)


def _key(block: int, batch: int) -> str:
    return f"{block} {batch}"
