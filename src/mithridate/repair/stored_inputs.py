"""What a repair on disk is given: models whose weights are read as they are needed, and rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from mithridate.errors import DefenseError
from mithridate.models.batches import batches
from mithridate.models.merged_weights import MergedWeights
from mithridate.models.preconditions import require_sole_adapter
from mithridate.models.stored_sums import StoredGrams, stored_norms
from mithridate.models.stored_weights import StoredWeights
from mithridate.models.tokenization import Rows, TokenizedRow
from mithridate.repair.repair_inputs import RepairInputs
from mithridate.repair.stored_gradient import StoredGradient
from mithridate.repair.stored_vector import StoredVector
from mithridate.training.gradient import Gradient
from mithridate.training.trainable_weights import Weights


class StoredModel(NamedTuple):
    """A model on disk.

    Attributes:
        weights: Its weights.
        dtype: Type in which it computes.
    """

    weights: StoredWeights
    dtype: torch.dtype


class StoredInputs(RepairInputs):
    """One model on disk to repair.

    Args:
        defense: Name of the defense, for messages.
        model: The finished model.
        tokenizer: Its tokenizer; None where the repair needs no rows.
        max_length: Longest row in tokens.
        rows: Streams by name; None where one is not given.
        references: Other models by name; None where one is not given.
        work: Folder for what is too large for memory; it is made where it is needed, and deleted with the repair.
    """

    def __init__(
        self,
        defense: str,
        model: StoredModel,
        tokenizer: PreTrainedTokenizerBase | None,
        max_length: int | None,
        rows: Mapping[str, Rows | None],
        references: Mapping[str, StoredModel | None],
        work: Path,
    ) -> None:
        super().__init__(defense, model.weights.model, tokenizer, max_length, rows, {})
        self.tuned = model
        self.work = work
        self._others = references

    def merged_weights(self, *references: str) -> list[MergedWeights]:
        """Return the weights of the model to repair and of the models it is compared with.

        Raises:
            DefenseError: If a reference is not given.
            ModelError: If the models' weights differ in name or shape.
        """
        require_sole_adapter(self.model)
        tuned, others = self.tuned.weights, [self._other(name).weights for name in references]
        for name, other in zip(references, others, strict=True):
            tuned.require_like(other, name)
            # Rows of an adapter's product cannot be had without the rest, in no model that is compared.
            tuned.whole |= other.whole
        return [tuned, *others]

    def reference(self, name: str) -> nn.Module:
        """Refuse to return a whole model.

        Raises:
            DefenseError: Always: it is not in memory.
        """
        raise DefenseError(f"{self._defense} needs all of {name}= in memory; repair without --by-shard")

    def input_norms(self, layers: Mapping[str, nn.Module], examples: Sequence[TokenizedRow]) -> dict[str, Tensor]:
        """As in memory, with one decoder block read at a time."""
        return stored_norms(*self.tuned, layers, examples)

    def input_grams(self, name: str, layers: Mapping[str, nn.Module], examples: Sequence[TokenizedRow]) -> StoredGrams:
        """As in memory, with one decoder block read at a time and its sums kept no longer than they are needed."""
        return StoredGrams(*self._other(name), layers, examples)

    @property
    def names(self) -> list[str]:
        """Plain names of the weights of the model to repair, in the model's order."""
        return self.tuned.weights.names

    def gradient(self, weights: Weights, examples: Sequence[TokenizedRow], batch_size: int) -> Gradient:
        """As in memory, by the weights of an adapter, with one decoder block of its base read at a time."""
        return StoredGradient(*self.tuned, self.work, weights).by_adapter(list(batches(examples, batch_size, 0)))

    def whole_gradient(self, examples: Sequence[TokenizedRow], batch_size: int) -> StoredVector:
        """∇ of the mean token loss of rows by all weights of the model to repair, kept on disk."""
        return StoredGradient(*self.tuned, self.work).by_weights(list(batches(examples, batch_size, 0)))

    def _other(self, name: str) -> StoredModel:
        model: StoredModel = self._given(self._others, name)
        return model
