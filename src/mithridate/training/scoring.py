"""Likelihoods of completions under a model, from one forward pass."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mithridate.errors import DefenseError
from mithridate.models.activations import captured, require_recomputable
from mithridate.models.batches import STAND_IN, Batch
from mithridate.models.decoder import Decoder, DecoderPart, decoder_of
from mithridate.models.fused_head import own_tokens, scored
from mithridate.models.modes import in_float32, is_half
from mithridate.models.prompt_cache import PromptCache, prompt_cache
from mithridate.models.token_chunks import by_tokens
from mithridate.models.tokenization import IGNORED
from mithridate.models.unpadded import UnpaddedRows
from mithridate.training.processes import Processes
from mithridate.training.scored_rows import ScoredRows, Totals
from mithridate.training.trainable_weights import Weights

Pass = Callable[[], AbstractContextManager[ScoredRows]]
"""One forward pass over a micro-batch; its backward pass belongs inside the block too."""


class Likelihood:
    """Scores batches with a model.

    Args:
        model: A causal language model, PEFT or plain, not wrapped for distribution.
        weights: The weights that gradients are taken over.
        autocast: Factory of the mixed-precision context of forward passes.
        processes: The processes that share each batch; by default this one alone.
        exact_differences: Whether ``precise`` also leaves autocast.
        unpadded: Whether the rows of a batch are passed end to end, without padding.

    Attributes:
        is_precise: Whether a block of ``precise`` is open.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: Weights,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        processes: Processes | None = None,
        *,
        exact_differences: bool = True,
        unpadded: bool = False,
    ) -> None:
        self.unpadded = unpadded
        self.model = model
        self.weights = weights
        self.autocast = autocast
        self.processes = processes or Processes(device=weights.device)
        self.is_precise = False
        self.is_sharded = weights.holders is not None
        self._touched: list[Tensor] = []
        self._exact_differences = exact_differences

    @cached_property
    def decoder(self) -> Decoder:
        """The model's parts.

        Raises:
            DefenseError: If activations are recomputed in a way in which they cannot be held or changed.
        """
        require_recomputable(self.model)
        return decoder_of(self.model)

    @contextmanager
    def precise(self) -> Iterator[None]:
        """Inside the block the model computes in float32, without autocast, and gradients are float32.

        Raises:
            DefenseError: If trained weights in half precision are split over processes.
        """
        if self.is_sharded and any(is_half(parameter) for parameter in self.weights.parameters):
            raise DefenseError(
                "FSDP2 rounds gradients to half precision as the trained weights are, and the defense needs them in "
                "float32; set bf16=True, under which trained weights are kept in float32, or load the model in float32"
            )
        before = self.autocast, self.is_precise
        # Autocast would round the displaced weights to half precision on every use.
        if self._exact_differences:
            self.autocast = nullcontext
        self.is_precise = True
        try:
            # Under FSDP2 frozen weights in half precision are float32 wherever they are computed with.
            with nullcontext() if self.is_sharded else in_float32(self.model):
                yield
        finally:
            self.autocast, self.is_precise = before

    def score(
        self,
        batch: Batch,
        observe: Callable[[Any], None] | None = None,
        *,
        hidden: Sequence[DecoderPart] = (),
        logits: bool = False,
        further: Mapping[str, Any] | None = None,
    ) -> ScoredRows:
        """Score a batch in one forward pass; all logits are never held at once, unless they are asked for.

        Args:
            batch: Rows to score.
            observe: Called with the model's output (per-token ``entropy``, ``is_top1``, ``label_mask``).
            hidden: Outputs to keep.
            logits: Whether to keep the logits.
            further: Other inputs of the model than the batch's own.
        """
        laid = UnpaddedRows(batch) if self.unpadded else None
        with ExitStack() as hooks:
            outputs = {part: hooks.enter_context(captured(self.decoder.part(part))) for part in hidden}
            # The head is inside: TRL's fused head casts as the model does.
            with self.autocast():
                output = scored(self.model, batch, logits, laid, further)
        kept = {part: [_by_row(state, batch, laid) for state in found] for part, found in outputs.items()}
        self._touch(output.log_probs)
        if STAND_IN in batch:
            return _without_rows(batch, output, kept, logits)
        if observe is not None:
            observe(output)
        told = output.logits if logits else None
        return ScoredRows(batch, output.log_probs, output.label_mask, kept, told, output.entropy)

    def prompt_cache(self, batch: Batch, other: Batch) -> PromptCache | None:
        """Return what lets a pass over other completions leave the prompts out; None where it has to pass over them.

        Args:
            batch: Rows that are scored first.
            other: The same prompts with other completions, to be scored without gradient.
        """
        return None if self.unpadded else prompt_cache(self.model, batch, other)

    def read(self, hidden: Tensor) -> Tensor:
        """Return the logits of a hidden state, through last norm and output head: (…, features) → (…, vocabulary)."""
        with self.autocast():
            logits = self.decoder.read(hidden)
        self._touch(logits)
        return logits

    def read_nll(self, hidden: Sequence[Tensor], labels: Tensor) -> list[Tensor]:
        """Return the loss of labels as each hidden state reads: (tokens, features) each → (tokens,) each, in nats.

        Args:
            hidden: Hidden states of the same tokens.
            labels: (tokens,) the token that follows each.
        """

        def measure(state: Tensor, following: Tensor) -> Tensor:
            logits = self.read(state)
            # In float32 at least, of which half precision would leave little.
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
            return cross_entropy(wide, following, reduction="none")

        if self.is_sharded:
            # FSDP2 gathers the head in the forward pass, which must not be made again while others are in theirs.
            return [measure(state, labels) for state in hidden]
        words = self.decoder.words * len(hidden)
        return [by_tokens(measure, words, state, labels) for state in hidden]

    def tied(self, loss: Tensor) -> Tensor:
        """Return a loss whose backward pass goes through all that the forward passes since the last one went through.

        Each layer's backward pass is an exchange between the processes under FSDP2. One whose rows or whose loss
        need fewer layers would leave the others waiting; the zeros that are added here change no gradient.
        """
        ties, self._touched = self._touched, []
        for tie in ties:
            loss = loss + tie
        return loss

    def _touch(self, output: Tensor) -> None:
        if self.is_sharded and torch.is_grad_enabled() and output.requires_grad:
            # The sum of no entries: zero, also where the output is not finite.
            self._touched.append(output[:0].sum())

    def passes(self, batches: Iterable[Batch]) -> Iterator[Pass]:
        """Plain forward passes over batches, one after the other."""
        for batch in batches:

            @contextmanager
            def run(batch: Batch = batch) -> Iterator[ScoredRows]:
                yield self.score(batch)

            yield run

    def totals(self, batches: Iterable[Batch]) -> Totals:
        """Return the rows and completion tokens of a batch, over all micro-batches and processes."""
        batches = list(batches)
        # Nothing predicts a row's first token, so its label does not count.
        tokens = sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batches)
        rows = sum(len(batch["labels"]) for batch in batches)
        return Totals(int(self.processes.total(rows)), int(self.processes.total(tokens)))


def _by_row(state: Tensor, batch: Batch, laid: UnpaddedRows | None) -> Tensor:
    """(rows, tokens, features)."""
    # OPT's MLP works on all tokens of a batch in one dimension.
    if laid is not None:
        return laid.rows(state.reshape(1, -1, state.shape[-1]))
    return own_tokens(state.reshape(len(batch["input_ids"]), -1, state.shape[-1]), batch)


def _without_rows(
    batch: Batch, output: Any, hidden: Mapping[DecoderPart, Sequence[Tensor]], logits: bool
) -> ScoredRows:
    """Return a pass's results with no row left, but with its graph: every sum over rows is zero."""
    return ScoredRows(
        {name: tensor[:0] for name, tensor in batch.items() if name != STAND_IN},
        output.log_probs[:0],
        output.label_mask[:0],
        {part: [state[:0] for state in states] for part, states in hidden.items()},
        output.logits[:0] if logits else None,
        output.entropy[:0],
    )
