"""Whether a model keeps rows apart that are laid end to end."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mithridate.errors import UsageError
from mithridate.models.batches import collate
from mithridate.models.modes import evaluating, is_half
from mithridate.models.tokenization import IGNORED, TokenizedRow
from mithridate.training.scoring import Likelihood

LONGEST = 64
"""Tokens of the row that is tried."""
ROUNDING, HALF_ROUNDING = 1e-3, 0.25
"""Nats by which a token may differ from the same token passed alone; in half precision sums are rounded on the way."""


def require_rows_apart(likelihood: Likelihood, ids: Sequence[int], pad_token_id: int) -> None:
    """Refuse a model under which a row laid behind another one is not what it is alone (3 forward passes).

    State-space layers, and attention that does not look at positions, carry one row on into the next; others lose what
    they put in front of every row. Nothing would fail, and every gradient would be wrong.

    Args:
        likelihood: Scores unpadded rows.
        ids: Tokens of a row.
        pad_token_id: Padding token.

    Raises:
        UsageError: If the model does not keep rows apart.
    """
    model: nn.Module = likelihood.model
    tokens = list(ids)[:LONGEST]
    words = max(2, model.get_input_embeddings().num_embeddings)  # type: ignore[operator]
    others = [[(one + shift) % words for one in tokens] for shift in (1, words // 2)]

    def behind(*before: list[int]) -> Tensor:
        rows = [*before, tokens]
        examples = [TokenizedRow(row, [IGNORED, *row[1:]], number) for number, row in enumerate(rows)]
        batch = collate(examples, pad_token_id, likelihood.weights.device)
        return likelihood.score(batch).log_probs[-1].float()

    with evaluating(model), torch.no_grad():
        first, second = (behind(other) for other in others)
        likelihood.unpadded = False
        try:
            alone = behind()
        finally:
            likelihood.unpadded = True
    half = torch.is_autocast_enabled(alone.device.type) or any(is_half(weight) for weight in model.parameters())
    most = HALF_ROUNDING if half else ROUNDING
    # What another row changes is nothing at all where it is masked, in any precision.
    if not bool(torch.isclose(first, second, rtol=0, atol=1e-6).all() and (first - alone).abs().max() <= most):
        raise UsageError(
            f"DefendedTrainer cannot be combined with padding_free=True for {type(model).__name__}: a row laid behind "
            "another one has other likelihoods than alone; leave it out"
        )
