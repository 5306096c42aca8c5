"""How likely a model finds given answers: nats per token, prompt given."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mithridate.data.chat_template import TEMPLATE_FAULTS
from mithridate.errors import ModelError, UsageError
from mithridate.evaluation.spread import own_batches, put_together
from mithridate.models.modes import evaluating
from mithridate.models.positions import most_positions

Messages = Sequence[Any]


class CompletionLoss(NamedTuple):
    """Loss of one answer.

    Attributes:
        nats: Sum of −log p over its tokens, the end token included.
        tokens: Number of its tokens.
    """

    nats: float
    tokens: int


def mean_loss(losses: Sequence[CompletionLoss]) -> float:
    """Return the mean nats per token over all completions; every token counts alike.

    Raises:
        UsageError: If the completions have no tokens.
    """
    tokens = sum(loss.tokens for loss in losses)
    if not tokens:
        raise UsageError("no tokens: a mean loss needs at least one answer")
    return sum(loss.nats for loss in losses) / tokens


def completion_losses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    completions: Sequence[str],
    *,
    batch_size: int = 32,
) -> list[CompletionLoss]:
    """Return the loss of every completion after its prompt, laid out by the tokenizer's chat template.

    An answer that runs past the model's positions is scored up to there.

    Args:
        model: Causal language model, plain or PEFT.
        tokenizer: Its tokenizer, with a chat template.
        prompts: Conversations of `{"role", "content"}` messages that end with the user's turn.
        completions: One answer per prompt.
        batch_size: Answers per forward pass; the losses do not depend on it.

    Raises:
        UsageError: If there is not one answer per prompt, or a prompt fills the model's positions.
        ModelError: If the template lays out an answered conversation differently from an open one, or a loss is
            NaN or Inf.
    """
    if len(prompts) != len(completions) or batch_size < 1:
        raise UsageError(
            f"losses need one answer per prompt, not {len(completions)} for {len(prompts)}, and batch_size >= 1"
        )
    rows = [_encode(tokenizer, prompt, answer) for prompt, answer in zip(prompts, completions, strict=True)]
    limit = most_positions(model.config)
    for place, row in enumerate(rows):
        if row.start >= limit:
            raise UsageError(
                f"prompt {place} has {row.start} tokens and leaves no room for an answer within the model's {limit} "
                "positions: shorten the prompt"
            )
        if limit < len(row.ids):
            del row.ids[int(limit) :]
    # Longest first, as in generation: little padding, and a batch too large for the memory fails at once.
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
    found: dict[int, CompletionLoss] = {}
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    with evaluating(model), torch.inference_mode():
        for batch in own_batches(batches):
            found |= dict(zip(batch, _score(model, [rows[i] for i in batch]), strict=True))
    found = put_together(found)
    return [found[i] for i in range(len(rows))]


class _Row(NamedTuple):
    ids: list[int]
    start: int  # first token of the answer


def _encode(tokenizer: PreTrainedTokenizerBase, prompt: Messages, answer: str) -> _Row:
    """Return the token ids of the answered conversation; they must start with those of the open prompt."""
    messages = [dict(message) for message in prompt]
    try:
        opened = _ids(tokenizer, messages, add_generation_prompt=True)
        whole = _ids(tokenizer, [*messages, {"role": "assistant", "content": answer}], add_generation_prompt=False)
    except TEMPLATE_FAULTS as error:
        raise ModelError(f"the chat template of {tokenizer.name_or_path!r} refused a conversation: {error}") from error
    # Compared as tokens, since a tokenizer may merge the prompt's end with the first letters of the answer.
    if whole[: len(opened)] != opened or len(whole) == len(opened):
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path!r} does not lay an answer out after its own generation "
            "prompt, so its tokens cannot be told from the prompt's; use the template the model was trained with"
        )
    return _Row(whole, len(opened))


def _ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], add_generation_prompt: bool) -> list[int]:
    encoded: Any = tokenizer.apply_chat_template(
        messages, add_generation_prompt=add_generation_prompt, tokenize=True, return_dict=True
    )
    return list(encoded["input_ids"])


def _score(model: PreTrainedModel, rows: Sequence[_Row]) -> list[CompletionLoss]:
    """Return the losses of one batch, padded on the right, where a causal model does not look."""
    width = max(len(row.ids) for row in rows)
    # Filled up with 0, which every vocabulary has: padding is masked, and a tokenizer may have no padding token.
    ids = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in rows], device=model.device)
    mask = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows], device=model.device)
    logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
    losses = []
    for row, line, tokens in zip(rows, logits, ids, strict=True):
        own = slice(row.start, len(row.ids))
        # One row's logits in float32 at a time: those of a batch can be larger than the model.
        # The logits at one position are those of the next token.
        scores = line[row.start - 1 : len(row.ids) - 1].float()
        nats = cross_entropy(scores, tokens[own], reduction="none").double()
        if not bool(nats.isfinite().all()):
            raise ModelError(
                "an answer's loss is NaN or Inf: the model's weights are damaged or overflow in this dtype"
            )
        losses.append(CompletionLoss(float(nats.sum()), len(nats)))
    return losses
