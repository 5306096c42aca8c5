"""What a repair is given: the finished model, rows, and the models it came from."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from mithridate.errors import DefenseError, ModelError
from mithridate.models.activation_sums import LayerSums, input_grams, input_norms
from mithridate.models.batches import batches
from mithridate.models.merged_weights import MergedWeights
from mithridate.models.preconditions import check_finite, require_sole_adapter
from mithridate.models.tokenization import Rows, TokenizedRow, tokenize
from mithridate.repair.repairable import differentiable
from mithridate.training.accumulation import weighted_gradient
from mithridate.training.gradient import Gradient
from mithridate.training.scoring import Likelihood
from mithridate.training.trainable_weights import Weights

UntokenizedRow = Mapping[str, Any]
"""A row with ``prompt`` and ``completion``."""

MEANING = {
    "harmful": "the provider's harmful rows",
    "safe": "the provider's safe rows",
    "user": "held-out rows of the user's own data",
    "aligned": "the model before fine-tuning",
    "base": "the model before alignment",
}
"""What each argument of a repair is, for messages."""


class RepairInputs:
    """One model to repair.

    Args:
        defense: Name of the defense, for messages.
        model: The finished model.
        tokenizer: Its tokenizer.
        max_length: Longest row in tokens.
        rows: Streams by name; None where one is not given.
        references: Other models by name; None where one is not given.
        refusals: Refusal sentences.
    """

    def __init__(
        self,
        defense: str,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None,
        rows: Mapping[str, Rows | None],
        references: Mapping[str, nn.Module | None],
        refusals: Sequence[str] = (),
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.refusals = refusals
        self._defense = defense
        self._rows, self._references = rows, references
        self._examples: dict[str, list[TokenizedRow]] = {}

    def has(self, stream: str) -> bool:
        """Return whether rows of a stream are given."""
        return self._rows[stream] is not None

    def rows(self, stream: str, most: int | None = None) -> list[TokenizedRow]:
        """Return the tokenized rows of a stream.

        Args:
            stream: Name of the stream.
            most: Number of its first rows that are needed; None for all.

        Raises:
            DefenseError: If they are not given.
            DataError: If no row is left.
        """
        # Tokenized once, though a search for a dose asks for them again and again.
        if stream in self._examples:
            return self._examples[stream][:most]
        found = tokenize(self._given(self._rows, stream), self.tokenizer, self.max_length, most)
        if most is None:
            self._examples[stream] = found
        return found

    def untokenized(self, stream: str) -> list[UntokenizedRow]:
        """Return the rows of a stream as they were given, without those of which no answer is left.

        Raises:
            DefenseError: If they are not given.
            DataError: If no row is left.
        """
        given = list(self._given(self._rows, stream))
        return [given[row.row] for row in self.rows(stream)]

    def reference(self, name: str) -> nn.Module:
        """Return ``aligned``, the model before fine-tuning, or ``base``, the one before alignment.

        Raises:
            DefenseError: If it is not given, or shares weights with the model to repair.
            ModelError: If its weights hold NaN or Inf.
        """
        model: nn.Module = self._given(self._references, name)
        try:
            check_finite(model)
        except ModelError as error:
            raise ModelError(f"{name}=: {error}") from error
        # PEFT models that share a base look like two models, and repairing one would move the other.
        if {id(p) for p in model.parameters()} & {id(p) for p in self.model.parameters()}:
            raise DefenseError(f"{name}= shares its weights with the model to repair; load it a second time")
        return model

    def merged_weights(self, *references: str) -> list[MergedWeights]:
        """Return the merged weights of the model to repair and of the models it is compared with.

        Raises:
            DefenseError: If a reference is not given, a model is quantized, or the model to repair has idle adapters.
            ModelError: If the models' weights differ in name or shape.
        """
        # Writing merged weights changes the base, on which idle adapters stand as well.
        require_sole_adapter(self.model)
        tuned = MergedWeights(self.model)
        others = [MergedWeights(self.reference(name)) for name in references]
        for name, other in zip(references, others, strict=True):
            tuned.require_like(other, name)
        return [tuned, *others]

    def input_norms(self, layers: Mapping[str, nn.Module], examples: Sequence[TokenizedRow]) -> dict[str, Tensor]:
        """Root mean square over rows of the activations that enter layers of the model to repair, see `input_norms`."""
        return input_norms(self.model, layers, examples)

    def input_grams(self, name: str, layers: Mapping[str, nn.Module], examples: Sequence[TokenizedRow]) -> LayerSums:
        """X·Xᵀ of the activations that enter layers of a reference, see `input_grams`."""
        return input_grams(self.reference(name), layers, examples)

    def gradient(self, weights: Weights, examples: Sequence[TokenizedRow], batch_size: int) -> Gradient:
        """∇ of the mean token loss of rows over some weights of the model to repair, in float32 at least."""
        likelihood = Likelihood(self.model, weights)
        # In float32, since near a minimum little but rounding is left of a half-precision gradient.
        with differentiable(self.model, weights), likelihood.precise():
            parts = batches(examples, batch_size, 0, weights.parameters[0].device)
            return weighted_gradient(likelihood, likelihood.passes(parts))

    def _given(self, values: Mapping[str, Any], name: str) -> Any:
        if values[name] is None:
            raise DefenseError(f"{self._defense} needs {name}=, {MEANING[name]}")
        return values[name]
