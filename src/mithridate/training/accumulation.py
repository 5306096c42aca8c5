"""Gradients of losses over a whole optimizer step, added up over its micro-batches and processes."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mithridate.errors import DefenseError, Diverged
from mithridate.models.activations import shifted
from mithridate.models.decoder import DecoderPart
from mithridate.training.gradient import Gradient
from mithridate.training.perturbation import Perturbation
from mithridate.training.scored_rows import LogWeights, Loss, LossShare, ScoredRows, Totals, uniform
from mithridate.training.scoring import Likelihood, Pass
from mithridate.training.vector_terms import scale


def weighted_gradient(likelihood: Likelihood, passes: Iterable[Pass], log_weights: LogWeights = uniform) -> Gradient:
    """∇ [ Σ_i w_i · NLL_i / Σ_i w_i · |y_i| ] over all rows of all micro-batches and processes.

    Weights are a softmax of the log-weights over all of them. As in online softmax, each micro-batch is scaled by
    exp(log-weight − running maximum), and the sum is divided once at the end. Rows whose log-weight is −inf
    are left out; if all are, the gradient is zero.

    Args:
        likelihood: Whose weights are differentiated.
        passes: Over this process's share of the rows.
        log_weights: Log-weights of the rows of a micro-batch, computed without gradient.

    Raises:
        DefenseError: If there is no trained token at all, or a log-weight is NaN or +inf.
    """
    weights = likelihood.weights
    # What an earlier gradient or a caller left in .grad is no part of this sum.
    weights.clear_grad()
    maximum, total, seen = -math.inf, 0.0, 0
    for run in passes:
        with run() as rows:
            seen += int(rows.tokens.sum())
            with torch.no_grad():
                logs = _checked(log_weights(rows).double(), rows)
            top = float(logs.max()) if len(logs) else -math.inf
            # FSDP2 adds the processes' gradients up in the backward pass, so they need one scale before it.
            if likelihood.is_sharded:
                top = likelihood.processes.largest(top)
            # Without weight there is nothing to add, and −inf − (−inf) below would be NaN.
            if top == -math.inf:
                continue
            # A new largest log-weight: what was added up so far is brought to its scale (online softmax).
            if top > maximum:
                weights.scale_grad(math.exp(maximum - top))
                total *= math.exp(maximum - top)
                maximum = top
            shares = (logs - maximum).exp()
            # Backward at once, so that the graph of only one micro-batch is held.
            likelihood.tied((shares.to(rows.nll.dtype) * rows.nll).sum()).backward()  # type: ignore[no-untyped-call]
            total += float((shares * rows.tokens).sum())
    return _reduced(likelihood, maximum, total, seen)


def loss_gradient(
    likelihood: Likelihood, passes: Iterable[Pass], loss: Loss, totals: Totals, paired: Totals | None = None
) -> Gradient:
    """∇ of a loss made of ``per_token`` and ``per_row`` means over all rows of all micro-batches and processes.

    Args:
        likelihood: Whose weights are differentiated.
        passes: Over this process's share of the rows.
        loss: From the scored rows of a micro-batch to its share of the loss.
        totals: Size of the whole batch.
        paired: The same for the completions that are paired with the rows, where there are some.

    Raises:
        DefenseError: If there is no trained token at all, or the loss is not made of shares.
    """
    likelihood.weights.clear_grad()
    mine = 0
    for run in passes:
        with run() as rows:
            # The sum is divided by the step's tokens at the end, as the plain loss is, and shares allow for that.
            rows.belong_to(totals, totals.tokens)
            if paired is not None:
                # Their means are over their own tokens, but the same division ends them.
                rows.paired.belong_to(paired, totals.tokens)
            mine += int(rows.tokens.sum())
            likelihood.tied(_require_share(loss(rows)).value).backward()  # type: ignore[no-untyped-call]
    return _reduced(likelihood, 0.0 if mine else -math.inf, mine, mine)


def activation_gradient(
    likelihood: Likelihood, passes: Sequence[Pass], totals: Totals, part: DecoderPart, layers: Sequence[int] | None
) -> Perturbation:
    """∂f/∂(outputs of a part), with f the mean token loss over all rows of all micro-batches and processes.

    Args:
        likelihood: Whose model is differentiated.
        passes: Over this process's share of the rows.
        totals: Size of the whole batch.
        part: Whose outputs.
        layers: Numbers of the layers; all by default.
    """
    every = likelihood.decoder.part(part)
    layers = range(len(every)) if layers is None else layers
    modules = [every[layer] for layer in layers]
    parts = []
    for run in passes:
        with shifted(modules, [None] * len(modules)) as probes, run() as rows:
            # autograd.grad leaves .grad of the weights alone, which a plain backward pass would fill.
            found = torch.autograd.grad(likelihood.tied(rows.nll.sum()), list(probes))
            # A process's stand-in has no rows to be perturbed.
            if len(rows.nll):
                parts.append([grad / totals.tokens for grad in found])
    # FSDP2 fills the weights' gradients with zeros all the same.
    likelihood.weights.clear_grad()
    return Perturbation(parts, layers, likelihood.processes)


def _reduced(likelihood: Likelihood, maximum: float, total: float, seen: int) -> Gradient:
    """Bring the processes' partial sums to one scale, add them up and divide once."""
    grads, processes = likelihood.weights.take_grad(), likelihood.processes
    if likelihood.is_sharded:
        total, seen = processes.total(total), int(processes.total(seen))
    elif processes.count > 1:
        # exp(maximum − peak) brings this process's sums to the scale of the one with the largest log-weight.
        peak = processes.largest(maximum)
        factor = 0.0 if maximum == -math.inf else math.exp(maximum - peak)
        scale(grads, factor)
        processes.sum_all(grads)
        total = processes.total(total * factor)
        seen = int(processes.total(seen))
    if seen == 0:
        raise DefenseError("a gradient was asked for on rows without a single trained token")
    # All rows may be left out by −inf; the gradient is then zero, not 0/0.
    if total > 0:
        torch._foreach_div_(grads, total)
    return Gradient.owning(grads, likelihood.weights.holders)


def _require_share(loss: object) -> LossShare:
    if not isinstance(loss, LossShare):
        raise DefenseError(
            f"the loss returned {type(loss).__name__}, whose scale would depend on how the step is cut; make it of "
            "rows.per_token(…), rows.per_row(…) and rows.once(…)"
        )
    return loss


def _checked(logs: Tensor, rows: ScoredRows) -> Tensor:
    bad = torch.isnan(logs) | (logs == math.inf)
    if bad.any():
        row = int(rows.row[bad][0])
        raise Diverged(f"the weight of row {row} is not a number; its likelihood is not finite")
    return logs
