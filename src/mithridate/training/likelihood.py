"""Likelihoods of answers, and gradients of weighted sums of them."""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, distributed, nn
from trl.trainer.utils import add_fused_lm_head

from mithridate.errors import DefenseError
from mithridate.training.batch import Batch
from mithridate.training.gradient import Gradient
from mithridate.training.weights import Weights


class ScoredRows:
    """What one forward pass tells about the rows of a batch.

    Attributes:
        batch: The batch itself.
        nll: (rows,) negative log-likelihood of each answer, in nats, differentiable in training.
        tokens: (rows,) number of answer tokens.
    """

    def __init__(self, batch: Batch, nll: Tensor, tokens: Tensor) -> None:
        self.batch = batch
        self.nll = nll
        self.tokens = tokens

    @property
    def mean_nll(self) -> Tensor:
        """(rows,) mean negative log-likelihood per answer token, in nats."""
        return self.nll / self.tokens

    @property
    def row(self) -> Tensor:
        """(rows,) position of each row in its data set."""
        return self.batch["row"]


LogWeights = Callable[[ScoredRows], Tensor]
"""Row weighting: from scored rows (no gradient) to unnormalized log-weights, (rows,)."""


def uniform(rows: ScoredRows) -> Tensor:
    """Plain training: every row has the same weight."""
    return torch.zeros_like(rows.nll)


class Likelihood:
    """Scores batches with a model and accumulates gradients over its trainable weights.

    Args:
        model: A causal language model, PEFT or plain, not wrapped for distribution.
        weights: The weights that gradients are taken over.
        autocast: Factory of the mixed-precision context of forward passes.
        processes: Number of processes that share each batch; above 1 sums are reduced over all of them.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: Weights,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        processes: int = 1,
    ) -> None:
        fuse_lm_head(model)
        self.model = model
        self.weights = weights
        self.autocast = autocast
        self.processes = processes

    def score(self, batch: Batch, observe: Callable[[Any], None] | None = None) -> ScoredRows:
        """One forward pass; the vocabulary's logits are never held at once.

        Args:
            batch: Rows to score.
            observe: Called with the model's output (per-token ``entropy``, ``is_top1``, ``label_mask``).
        """
        with self.autocast():
            output = self.model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                labels=batch["labels"],
                fused_lm_head=True,
            )
        if observe is not None:
            observe(output)
        return ScoredRows(batch, -output.log_probs.sum(dim=1), output.label_mask.sum(dim=1))

    def gradient(
        self,
        batches: Iterable[Batch],
        log_weights: LogWeights = uniform,
        score: Callable[[Batch], ScoredRows] | None = None,
    ) -> Gradient:
        """∇ [ Σ_i w_i · NLL_i / Σ_i w_i · |y_i| ] over all rows of all batches and processes.

        Weights are a softmax of the log-weights over all of them. As in online softmax, each batch is scaled by
        exp(log-weight − running maximum), and the sum is divided once at the end. Rows whose log-weight is −inf
        are left out; if all are, the gradient is zero.

        Args:
            batches: This process's share of the rows.
            log_weights: Log-weights of the rows of a batch, computed without gradient.
            score: Forward pass to use instead of ``self.score``.

        Raises:
            DefenseError: If there is no trained token at all, or a log-weight is NaN or +inf.
        """
        score = score or self.score
        self.weights.clear_grad()
        maximum, total = -math.inf, 0.0
        seen = 0
        for batch in batches:
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


def fuse_lm_head(model: nn.Module) -> None:
    """Give the causal model TRL's fused head (per-token log-probabilities without logits), once.

    Its ordinary forward, and so generation, stays as it was.
    """
    causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if getattr(causal, "_has_fused_lm_head", False):
        return
    if getattr(causal.forward, "__code__", None) is None or causal.forward.__code__.co_name != "_fused_forward":
        add_fused_lm_head(causal, outputs=("log_probs", "entropy", "is_top1"))
    causal._has_fused_lm_head = True
