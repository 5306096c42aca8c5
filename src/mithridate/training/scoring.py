"""Likelihoods of answers, and gradients of sums of them."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, distributed, nn

from mithridate.errors import DefenseError
from mithridate.models.activations import captured, require_recomputable, shifted
from mithridate.models.batches import Batch
from mithridate.models.decoder import Decoder, DecoderPart, decoder_of
from mithridate.models.fused_head import own_tokens, scored
from mithridate.models.modes import in_float32
from mithridate.models.tokenization import IGNORED
from mithridate.training.gradient import Gradient
from mithridate.training.perturbation import Perturbation
from mithridate.training.scored_rows import LogWeights, Loss, LossShare, ScoredRows, Totals, uniform
from mithridate.training.trainable import Weights

Around = Callable[[int], AbstractContextManager[Any]]
"""From the number of a micro-batch to what surrounds its pass, backward included."""


def _nothing(place: int) -> AbstractContextManager[Any]:
    return nullcontext()


class Likelihood:
    """Scores batches with a model and accumulates gradients over its trainable weights.

    Args:
        model: A causal language model, PEFT or plain, not wrapped for distribution.
        weights: The weights that gradients are taken over.
        autocast: Factory of the mixed-precision context of forward passes.
        processes: Number of processes that share each batch; above 1 sums are reduced over all of them.
        exact_differences: Whether ``precise`` also leaves autocast.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: Weights,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        processes: int = 1,
        *,
        exact_differences: bool = True,
    ) -> None:
        self.model = model
        self.weights = weights
        self.autocast = autocast
        self.processes = processes
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
        """Inside the block the model computes in float32, without autocast, and gradients are float32."""
        before = self.autocast
        if self._exact_differences:
            self.autocast = nullcontext
        try:
            with in_float32(self.model) as copies, self.weights.replaced(copies):
                yield
        finally:
            self.autocast = before

    def score(
        self,
        batch: Batch,
        observe: Callable[[Any], None] | None = None,
        *,
        hidden: Sequence[DecoderPart] = (),
        logits: bool = False,
    ) -> ScoredRows:
        """One forward pass; the vocabulary's logits are never held at once, unless they are asked for.

        Args:
            batch: Rows to score.
            observe: Called with the model's output (per-token ``entropy``, ``is_top1``, ``label_mask``).
            hidden: Outputs to keep.
            logits: Whether to keep the logits.
        """
        with ExitStack() as hooks:
            outputs = {part: hooks.enter_context(captured(self.decoder.part(part))) for part in hidden}
            with self.autocast():
                output = scored(self.model, batch, logits)
        if observe is not None:
            observe(output)
        # OPT's MLP works on all tokens of a batch in one dimension.
        rows = len(batch["input_ids"])
        kept = {part: [_by_row(state, rows, batch) for state in found] for part, found in outputs.items()}
        return ScoredRows(batch, output.log_probs, output.label_mask, kept, output.logits if logits else None)

    def gradient(
        self,
        batches: Iterable[Batch],
        log_weights: LogWeights = uniform,
        score: Callable[[Batch], ScoredRows] | None = None,
        around: Around = _nothing,
    ) -> Gradient:
        """∇ [ Σ_i w_i · NLL_i / Σ_i w_i · |y_i| ] over all rows of all batches and processes.

        Weights are a softmax of the log-weights over all of them. As in online softmax, each batch is scaled by
        exp(log-weight − running maximum), and the sum is divided once at the end. Rows whose log-weight is −inf
        are left out; if all are, the gradient is zero.

        Args:
            batches: This process's share of the rows.
            log_weights: Log-weights of the rows of a batch, computed without gradient.
            score: Forward pass to use instead of ``self.score``.
            around: What surrounds the forward and backward pass of each micro-batch.

        Raises:
            DefenseError: If there is no trained token at all, or a log-weight is NaN or +inf.
        """
        score = score or self.score
        self.weights.clear_grad()
        maximum, total = -math.inf, 0.0
        seen = 0
        for place, batch in enumerate(batches):
            with around(place):
                rows = score(batch)
                seen += int(rows.tokens.sum())
                with torch.no_grad():
                    logs = _checked(log_weights(rows).double(), rows)
                top = float(logs.max())
                if top == -math.inf:
                    continue
                if top > maximum:
                    self.weights.scale_grad(math.exp(maximum - top))
                    total *= math.exp(maximum - top)
                    maximum = top
                shares = (logs - maximum).exp()
                (shares.to(rows.nll.dtype) * rows.nll).sum().backward()  # type: ignore[no-untyped-call]
                total += float((shares * rows.tokens).sum())
        return self._reduce(maximum, total, seen)

    def gradient_of(
        self,
        loss: Loss,
        batches: Sequence[Batch],
        score: Callable[[Batch], ScoredRows] | None = None,
        around: Around = _nothing,
    ) -> Gradient:
        """∇ of a loss made of ``per_token`` and ``per_row`` means over all rows of all batches and processes.

        Args:
            loss: From the scored rows of a micro-batch to its share of the loss.
            batches: This process's share of the rows.
            score: Forward pass to use instead of ``self.score``.
            around: What surrounds the forward and backward pass of each micro-batch.

        Raises:
            DefenseError: If there is no trained token at all, or the loss is not made of shares.
        """
        score = score or self.score
        self.weights.clear_grad()
        totals, mine = self.totals(batches), 0
        for place, batch in enumerate(batches):
            with around(place):
                rows = score(batch)
                rows.totals = totals
                mine += int(rows.tokens.sum())
                _require_share(loss(rows)).value.backward()  # type: ignore[no-untyped-call]
        return self._reduce(0.0 if mine else -math.inf, mine, mine)

    def activation_gradient(
        self,
        part: DecoderPart,
        batches: Sequence[Batch],
        observe: Callable[[Any], None] | None = None,
        places: Sequence[int] | None = None,
        around: Around = _nothing,
    ) -> Perturbation:
        """∂f/∂(outputs of a part), with f the mean token loss over all rows of all batches and processes.

        Args:
            part: Whose outputs.
            batches: This process's share of the rows.
            observe: Called with the model's output.
            places: Which modules of the part; all by default.
            around: What surrounds the forward and backward pass of each micro-batch.
        """
        every = self.decoder.part(part)
        places = range(len(every)) if places is None else places
        modules = [every[place] for place in places]
        tokens = self.totals(batches).tokens
        parts = []
        for place, batch in enumerate(batches):
            with around(place), shifted(modules, [None] * len(modules)) as probes:
                nll = self.score(batch, observe).nll.sum()
                parts.append([grad / tokens for grad in torch.autograd.grad(nll, list(probes))])
        return Perturbation(parts, places, self.processes, self.weights.parameters[0].device)

    def totals(self, batches: Sequence[Batch]) -> Totals:
        """Rows and answer tokens of a batch, over all micro-batches and processes."""
        tokens = sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batches)
        rows = sum(len(batch["labels"]) for batch in batches)
        if self.processes == 1:
            return Totals(rows, tokens)
        everyone = distributed.ReduceOp.SUM
        return Totals(int(self._all_reduce(rows, everyone)), int(self._all_reduce(tokens, everyone)))

    def _reduce(self, maximum: float, total: float, seen: int) -> Gradient:
        """Bring the processes' partial sums to one scale, add them up and divide once."""
        grads = self.weights.take_grad()
        if self.processes > 1:
            peak = self._all_reduce(maximum, distributed.ReduceOp.MAX)
            scale = 0.0 if maximum == -math.inf else math.exp(maximum - peak)
            torch._foreach_mul_(grads, scale)
            _sum_over_processes(grads)
            total = self._all_reduce(total * scale, distributed.ReduceOp.SUM)
            seen = int(self._all_reduce(seen, distributed.ReduceOp.SUM))
        if seen == 0:
            raise DefenseError("a gradient was asked for on rows without a single trained token")
        if total > 0:
            torch._foreach_div_(grads, total)
        return Gradient(grads)

    def _all_reduce(self, value: float, operation: Any) -> float:
        device = self.weights.parameters[0].device
        tensor = torch.tensor(value, dtype=torch.float64, device=device)
        distributed.all_reduce(tensor, op=operation)
        return float(tensor)


def _by_row(state: Tensor, rows: int, batch: Batch) -> Tensor:
    """(rows, tokens, features)."""
    return own_tokens(state.reshape(rows, -1, state.shape[-1]), batch)


def _require_share(loss: Any) -> LossShare:
    if not isinstance(loss, LossShare):
        raise DefenseError(
            f"the loss gave {type(loss).__name__}, whose scale would depend on how the step is cut; make it of "
            "rows.per_token(…), rows.per_row(…) and rows.once(…)"
        )
    return loss


def _checked(logs: Tensor, rows: ScoredRows) -> Tensor:
    bad = torch.isnan(logs) | (logs == math.inf)
    if bad.any():
        row = int(rows.row[bad][0])
        raise DefenseError(f"the weight of row {row} is not a number; its likelihood is not finite")
    return logs


def _sum_over_processes(grads: list[Tensor]) -> None:
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    distributed.all_reduce(flat)
    pieces = torch.split(flat, [grad.numel() for grad in grads])
    torch._foreach_copy_(grads, [piece.view_as(grad) for piece, grad in zip(pieces, grads, strict=True)])
