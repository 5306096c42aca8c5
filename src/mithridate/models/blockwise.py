"""Forward passes of a model on disk, one decoder block in memory at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mithridate.models.batches import Batch
from mithridate.models.decoder import decoder_of
from mithridate.models.fused_head import causal_of, scored
from mithridate.models.resident import resident
from mithridate.models.stored_weights import StoredWeights

EMBEDDING = -1
"""The turn of the embedding, before those of the blocks."""


class _Reached(Exception):  # no error: it leaves a forward pass that has gone far enough
    """The forward pass has come to the end of the block that is in memory.

    Args:
        hidden: The block's output.
    """

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class Blockwise:
    """Runs the parts of a model one at a time: the embedding, each decoder block, the head.

    The model's own forward pass is called for each part, so that masks, positions and kinds of attention are its own;
    blocks that are not in memory hand their input on.

    Args:
        weights: The model on disk.
        dtype: Type in which it computes.
        trained: Ids of parameters that take gradients.

    Attributes:
        blocks: The decoder blocks.
    """

    def __init__(self, weights: StoredWeights, dtype: torch.dtype, trained: frozenset[int] = frozenset()) -> None:
        self._weights, self._dtype, self._trained = weights, dtype, trained
        self._model = weights.model
        causal: Any = causal_of(self._model)
        self.blocks = decoder_of(self._model).blocks
        inside = {id(module) for block in self.blocks for module in block.modules()}
        outside = [module for module in self._model.modules() if id(module) not in inside]
        self._embedding: Any = causal.get_input_embeddings()
        self._ends = [list(end.modules()) for end in (self._embedding, causal.get_output_embeddings())]
        ends = {id(module) for end in self._ends for module in end}
        # Small ones: norms, and embeddings of positions where they are learned.
        self._between = [module for module in outside if id(module) not in ends]
        self._features = next(m.embedding_dim for m in self._embedding.modules() if isinstance(m, nn.Embedding))
        # The block whose turn it is, its input, and whether blocks return tuples.
        self._turn, self._hidden, self._tuples = EMBEDDING, torch.empty(0), False

    @contextmanager
    def embedding(self) -> Iterator[dict[str, nn.Parameter]]:
        """Inside the block `embed` can be called; yields the parameters in memory."""
        with self._turn_of(EMBEDDING), self._resident([*self._between, *self._ends[0]]) as held:
            yield held

    @contextmanager
    def block(self, number: int) -> Iterator[dict[str, nn.Parameter]]:
        """Inside the block `pass_on` can be called for a decoder block; yields the parameters in memory."""
        own = list(self.blocks[number].modules())
        with self._turn_of(number), self._resident(self._between), self._resident(own) as held:
            yield held

    @contextmanager
    def head(self) -> Iterator[dict[str, nn.Parameter]]:
        """Inside the block `end` can be called; yields the parameters in memory."""
        with self._turn_of(len(self.blocks)), self._resident([*self._between, *self._ends[1]]) as held:
            yield held

    def embed(self, batch: Batch) -> Tensor:
        """Return what enters the first block, (rows, tokens, features)."""
        return self._run(batch)

    def pass_on(self, batch: Batch, hidden: Tensor) -> Tensor:
        """Return what leaves the present block, for what enters it."""
        self._hidden = hidden
        return self._run(batch)

    def end(self, batch: Batch, hidden: Tensor) -> Any:
        """Score the completions of a batch, see `scored`, for what leaves the last block."""
        self._hidden = hidden
        return scored(self._model, batch)

    def _run(self, batch: Batch) -> Tensor:
        try:
            self._model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        except _Reached as reached:
            return reached.hidden
        raise AssertionError("the forward pass went past its blocks")

    def _resident(self, modules: Sequence[nn.Module]) -> Any:
        return resident(self._weights, modules, self._dtype, self._trained)

    @contextmanager
    def _turn_of(self, turn: int) -> Iterator[None]:
        """Inside the block every decoder block but one hands its input on."""
        self._turn = turn
        try:
            for number, block in enumerate(self.blocks):
                block.__dict__["forward"] = self._forward(number, block.forward)
            if turn != EMBEDDING:
                self._embedding.__dict__["forward"] = self._nothing
            yield
        finally:
            for module in (self._embedding, *self.blocks):
                module.__dict__.pop("forward", None)

    def _nothing(self, tokens: Tensor) -> Tensor:
        # Values do not matter, since the kept activations take their place, but shapes decide masks and positions.
        return self._hidden.new_zeros(*tokens.shape, self._features)

    def _forward(self, number: int, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self._turn == EMBEDDING:
                raise _Reached(hidden)
            if self._turn == number:
                output = original(self._hidden, *args, **kwargs)
                self._tuples = isinstance(output, tuple)
                raise _Reached(output[0] if self._tuples else output)
            last = number == len(self.blocks) - 1 and self._turn > number
            passed = self._hidden if last else hidden
            return (passed,) if self._tuples else passed

        return forward
