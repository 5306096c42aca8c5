"""Rows read by the aligned model: likelihoods, hidden states and gradients of all rows from one pass over them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from mithridate.data.row_reader import TrainingRow
from mithridate.errors import GateError
from mithridate.gates.last_block import LastBlock
from mithridate.models.activations import captured
from mithridate.models.batches import Batch, collate, with_completions
from mithridate.models.decoder import decoder_of
from mithridate.models.fused_head import own_tokens, scored
from mithridate.models.modes import evaluating, undisturbed
from mithridate.models.tokenization import IGNORED, TokenizedRow, completion_ids, tokenize


class Reading(NamedTuple):
    """What the model says of some rows.

    Attributes:
        answer_nll: (rows,) mean negative log-likelihood per token of the answer, in nats.
        refusal_nll: (rows,) the same of a refusal to the same prompt; NaN where it was not asked for.
        prompt_end: Hidden state of the last token before the answer, by block, each (rows, features).
        answer_mean: Mean hidden state over the answer's tokens, likewise.
        gradient_match: (rows,) cosine of the row's gradient with the probe's direction; NaN without a probe.
    """

    answer_nll: Tensor
    refusal_nll: Tensor
    prompt_end: dict[int, Tensor]
    answer_mean: dict[int, Tensor]
    gradient_match: Tensor


class ModelReader:
    """Reads rows with the aligned model, which stays as it is.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        batch_size: Rows of a forward pass.
        max_length: Tokens of a row that are read.

    Attributes:
        blocks: Decoder blocks whose outputs are wanted.
        refusals: Token ids of the refusals that each prompt is paired with.
        probe: The last block with a direction to compare gradients with; None spares the backward pass.
    """

    def __init__(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, batch_size: int = 16, max_length: int = 1024
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.batch_size, self.max_length = batch_size, max_length
        self.blocks: set[int] = set()
        self.refusals: list[list[int]] = []
        self.probe: LastBlock | None = None
        self.decoder = decoder_of(model)
        self._device = next(model.parameters()).device
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        if pad is None:
            raise GateError("the tokenizer has neither a padding nor an end token; set tokenizer.pad_token")
        self.pad: int = pad

    def block(self, depth: float) -> int:
        """Return the number of the decoder block at a depth of 0..1 of the model."""
        return round(depth * (len(self.decoder.blocks) - 1))

    def refusal_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of refusals as they stand after a prompt."""
        room = self.max_length // 2
        return [ids[:room] for ids in completion_ids(texts, self.tokenizer, conversational=True)]

    def read(self, rows: Sequence[TrainingRow]) -> Reading:
        """Read rows.

        Raises:
            GateError: If a row has no answer that could be read.
        """
        examples = self._tokenized(rows)
        # Rows of like length share a batch, so that little of it is padding.
        order = sorted(range(len(examples)), key=lambda i: len(examples[i].input_ids))
        parts, places = [], []
        with self.undisturbed():
            for start in range(0, len(order), self.batch_size):
                chosen = order[start : start + self.batch_size]
                parts.append(self._read(self.batch([examples[i] for i in chosen])))
                places += chosen
        back = torch.tensor(places).argsort()
        return _joined(parts, back)

    def batches(self, rows: Sequence[TrainingRow]) -> Iterator[Batch]:
        """Yield rows in padded batches."""
        examples = self._tokenized(rows)
        for start in range(0, len(examples), self.batch_size):
            yield self.batch(examples[start : start + self.batch_size])

    def batch(self, examples: Sequence[TokenizedRow]) -> Batch:
        """Pad rows into one batch on the model's device."""
        return collate(examples, self.pad, self._device)

    def refusal_nll(self, batch: Batch, refusals: Sequence[Sequence[int]]) -> Tensor:
        """(rows,) mean over some refusals of their mean negative log-likelihood per token after each prompt."""
        losses = []
        with torch.no_grad():
            for refusal in refusals:
                output = scored(self.model, with_completions(batch, [refusal], self.pad, self.max_length))
                losses.append(-output.log_probs.sum(dim=1) / output.label_mask.sum(dim=1))
        return torch.stack(losses).mean(dim=0).float().cpu()

    def gradient(self, rows: Sequence[TrainingRow], block: LastBlock) -> list[Tensor]:
        """Return the mean gradient of the rows' losses over the layers of a block, one (outputs, inputs) per layer."""
        total: list[Tensor] = []
        with self.undisturbed():
            for batch in self.batches(rows):
                with block.traced() as traced:
                    output = scored(self.model, batch)
                    nll = -output.log_probs.sum(dim=1) / output.label_mask.sum(dim=1)
                    found = block.gradient(traced, nll, batch)
                total = [a + b for a, b in zip(total, found, strict=True)] if total else found
        return [one / len(rows) for one in total]

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Inside the block the caller's modes do not act, dropout is off, and no weight is differentiated by."""
        with undisturbed([self.model]), evaluating(self.model):
            for parameter in self.model.parameters():
                parameter.requires_grad_(False)
            yield

    def _read(self, batch: Batch) -> Reading:
        layers = sorted(self.blocks)
        with ExitStack() as open_blocks:
            open_blocks.enter_context(nullcontext() if self.probe else torch.no_grad())
            traced = open_blocks.enter_context(self.probe.traced()) if self.probe else None
            states = open_blocks.enter_context(captured([self.decoder.blocks[i] for i in layers]))
            output = scored(self.model, batch)
            nll = -output.log_probs.sum(dim=1) / output.label_mask.sum(dim=1)
            match = self.probe.match(traced, nll, batch) if self.probe and traced is not None else None
        nothing = torch.full((len(nll),), torch.nan)
        mask = output.label_mask
        # The mask is of next tokens: the first one marked is the prompt's last token.
        last, at = mask.int().argmax(dim=1), torch.arange(len(mask), device=mask.device)
        own = {i: own_tokens(state.detach(), batch).float() for i, state in zip(layers, states, strict=True)}
        inside = (batch["labels"] != IGNORED).unsqueeze(-1)
        return Reading(
            answer_nll=nll.detach().float().cpu(),
            refusal_nll=self.refusal_nll(batch, self.refusals) if self.refusals else nothing,
            prompt_end={i: state[at, last].cpu() for i, state in own.items()},
            answer_mean={i: ((state * inside).sum(1) / inside.sum(1)).cpu() for i, state in own.items()},
            gradient_match=nothing if match is None else match.cpu(),
        )

    def _tokenized(self, rows: Sequence[TrainingRow]) -> list[TokenizedRow]:
        examples = tokenize((row._asdict() for row in rows), self.tokenizer)
        if len(examples) != len(rows):
            lost = sorted({*range(len(rows))} - {example.row for example in examples})
            raise GateError(f"{rows[lost[0]].origin} has no token of an answer, so the gate cannot read it; remove it")
        return [_cut(example, self.max_length) for example in examples]


def _cut(example: TokenizedRow, most: int) -> TokenizedRow:
    """Return the end of a long prompt and the beginning of its answer.

    At least as many of the answer's tokens are left as in training, which cuts a row behind its first tokens.
    """
    if len(example.input_ids) <= most:
        return example
    start = next(i for i, label in enumerate(example.labels) if label != IGNORED)
    begin = max(0, start - most // 2)
    return TokenizedRow(example.input_ids[begin : begin + most], example.labels[begin : begin + most], example.row)


def _joined(parts: Sequence[Reading], order: Tensor) -> Reading:
    def cat(tensors: Iterable[Tensor]) -> Tensor:
        return torch.cat(list(tensors))[order]

    def cats(states: Sequence[dict[int, Tensor]]) -> dict[int, Tensor]:
        return {i: cat(state[i] for state in states) for i in states[0]}

    values: dict[str, Any] = {}
    for name in Reading._fields:
        found = [getattr(part, name) for part in parts]
        values[name] = cats(found) if isinstance(found[0], dict) else cat(found)
    return Reading(**values)
