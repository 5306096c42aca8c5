"""The rows a defense draws beside the training data, once per optimizer step."""

from collections.abc import Sequence

import torch

from mithridate.models.tokenization import TokenizedRow


class Stream:
    """An endless shuffled stream of examples whose position can be saved.

    Each pass over the rows has an order of its own, given by the seed and the number of the pass.

    Args:
        examples: Tokenized rows.
        batch_size: Rows drawn per optimizer step, over all processes together.
        seed: Seed of the order.

    Attributes:
        drawn: Rows drawn so far; the whole state of the stream.
    """

    def __init__(self, examples: Sequence[TokenizedRow], batch_size: int, seed: int) -> None:
        self.examples = list(examples)
        self.batch_size = batch_size
        self.seed = seed
        self.drawn = 0
        self._order: tuple[int, list[int]] | None = None

    def draw(self, size: int | None = None) -> list[TokenizedRow]:
        """Return the next examples, by default ``batch_size``."""
        size = self.batch_size if size is None else size
        rows = [self._row(self.drawn + offset) for offset in range(size)]
        self.drawn += size
        return [self.examples[row] for row in rows]

    def _row(self, position: int) -> int:
        number, place = divmod(position, len(self.examples))
        if self._order is None or self._order[0] != number:
            # A prime far above any number of passes, so that no two runs with near seeds share an order.
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
            self._order = (number, torch.randperm(len(self.examples), generator=generator).tolist())
        return self._order[1][place]
