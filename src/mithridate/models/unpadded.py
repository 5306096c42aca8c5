"""Rows laid end to end for a forward pass, so that no padding is computed, and what comes out laid back into rows.

Position ids that start again at every row tell the rows apart: flash attention cuts the sequence there, and the other
implementations of transformers mask what belongs to another row (`find_packed_sequence_indices` in `masking_utils`).
"""

from typing import Any

from torch import Tensor

from mithridate.models.batches import Batch
from mithridate.models.tokenization import IGNORED


class UnpaddedRows:
    """A batch as one row of all its tokens.

    Attributes:
        inputs: What the model is called with, without labels.
        labels: (1, tokens of all rows).

    Args:
        batch: The rows, padded on either side.
    """

    def __init__(self, batch: Batch) -> None:
        self._real = real = batch["attention_mask"].bool()
        positions = (real.cumsum(dim=1) - 1)[real]
        # Nothing predicts a row's first token; here the last token of the row before would.
        self.labels = batch["labels"][real].masked_fill(positions == 0, IGNORED)[None]
        self.inputs: dict[str, Any] = {
            "input_ids": batch["input_ids"][real][None],
            # And no mask: with one, positions are not looked at.
            "position_ids": positions[None],
            "use_cache": False,  # with one, the rows before count as tokens of the same text
        }

    def rows(self, states: Tensor, fewer: int = 0) -> Tensor:
        """(rows, tokens − fewer, …) of states of shape (1, tokens of all rows − fewer, …), zero where there is padding.

        Args:
            states: What came out of the pass.
            fewer: 1 where each state is about the next token, so that a row has one fewer of them.
        """
        flat, real = states[0], self._real
        if fewer:
            # Only where a token and the next one are of the same row.
            pairs = real[:, :-1] & real[:, 1:]
            places = (real.flatten().cumsum(dim=0) - 1).view_as(real)
            flat, real = flat[places[:, :-1][pairs]], pairs
        found = flat.new_zeros(*real.shape, *flat.shape[1:])
        found[real] = flat
        return found
