"""Gradients of single rows on a cheap subset of the weights."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from mithridate.errors import ModelError
from mithridate.models.decoder import decoder_of
from mithridate.models.modes import evaluating, undisturbed
from mithridate.models.preconditions import check_finite
from mithridate.models.tokenization import IGNORED, TokenizedRow, tokenize


def row_gradients(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, Any]],
    *,
    first_tokens: int | None = None,
    max_length: int | None = None,
) -> Iterator[tuple[TokenizedRow, Tensor]]:
    """Return each row and ∇ of its mean loss over the answer's tokens, one row at a time.

    Only the weights of the last decoder block's MLP are differentiated by: one short backward pass a row, and vectors
    that fit into memory. The model is left as it was.

    Args:
        model: Causal language model, plain or PEFT.
        tokenizer: Its tokenizer.
        rows: Prompt/completion rows.
        first_tokens: Tokens of each answer that count, from its start; all by default.
        max_length: Longest row in tokens.

    Raises:
        ModelError: If the model's weights cannot be differentiated by, or a gradient is not finite.
        DataError: If no row has an answer within ``max_length``.
    """
    check_finite(model)
    weights = [weight for weight in decoder_of(model).mlp[-1].parameters() if weight.is_floating_point()]
    if not weights:
        raise ModelError("the last block's MLP has no floating weights to differentiate by; load the model in bf16")
    device = next(model.parameters()).device
    with undisturbed([model]), evaluating(model):
        model.requires_grad_(False)
        for weight in weights:
            weight.requires_grad_(True)
        for example in tokenize(rows, tokenizer, max_length):
            labels = _cut(example.labels, first_tokens)
            inputs = {"input_ids": example.input_ids, "attention_mask": [1] * len(labels), "labels": labels}
            batch = {name: torch.tensor([values], device=device) for name, values in inputs.items()}
            grads = torch.autograd.grad(model(**batch).loss, weights)
            vector = torch.cat([grad.detach().float().flatten() for grad in grads])
            if not bool(vector.isfinite().all()):
                raise ModelError(f"the gradient of row {example.row} is NaN or Inf; load the model in float32")
            yield example, vector


def answer_length(row: TokenizedRow) -> int:
    """Return the number of a row's answer tokens."""
    return sum(label != IGNORED for label in row.labels)


def _cut(labels: Sequence[int], count: int | None) -> list[int]:
    """Return labels of which only the first ``count`` that are not ignored are left."""
    trained = [place for place, label in enumerate(labels) if label != IGNORED]
    kept = set(trained[:count])
    return [label if place in kept else IGNORED for place, label in enumerate(labels)]
