"""How likely a model finds the completions of tokenized rows: mean loss and token accuracy."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn

from mithridate.errors import UsageError
from mithridate.models.batches import batches
from mithridate.models.fused_head import scored
from mithridate.models.modes import evaluating
from mithridate.models.tokenization import TokenizedRow


class TokenFigures(NamedTuple):
    """Means per completion token; every token counts alike.

    Attributes:
        loss: Negative log-likelihood, in nats; None where it is not finite.
        accuracy: Share of tokens that were the likeliest.
    """

    loss: float | None
    accuracy: float


def token_figures(
    model: nn.Module,
    rows: Sequence[TokenizedRow],
    pad_token_id: int,
    *,
    batch_size: int = 32,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> TokenFigures:
    """Return the figures of some rows under a model, without a trace in the model or in any random state.

    Args:
        model: Causal language model, plain or PEFT; may be in the middle of a training.
        rows: The rows.
        pad_token_id: Token that fills rows up; it is masked.
        batch_size: Rows per forward pass.
        autocast: Factory of the mixed-precision context of forward passes.

    Raises:
        UsageError: If there are no rows.
    """
    if not rows:
        raise UsageError("token figures need at least one row; give rows whose completion is within max_length")
    device = next(model.parameters()).device
    # Longest first: little padding, and a batch too large for the memory fails at once.
    ordered = sorted(rows, key=lambda row: -len(row.input_ids))
    nats, correct, tokens = 0.0, 0.0, 0.0
    # Not inference_mode: what a model keeps of a pass, such as rotary tables, could not be trained through afterwards.
    with evaluating(model), torch.no_grad():
        for batch in batches(ordered, batch_size, pad_token_id, device):
            with autocast():
                output = scored(model, batch)
            nats -= float(output.log_probs.double().sum())
            correct += float(output.is_top1.sum())
            tokens += float(output.label_mask.sum())
    loss = nats / tokens
    return TokenFigures(loss if math.isfinite(loss) else None, correct / tokens)
