"""The weights that rows are trained with: those of one step, and their mean over a training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor


class RowShares(NamedTuple):
    """The rows' weights in one row-weighted gradient, over all processes.

    Attributes:
        rows: Positions of the rows in their data set.
        shares: Their softmax shares.
        losses: Their mean token loss, in nats.
    """

    rows: list[int]
    shares: list[float]
    losses: list[float]

    def relative(self) -> list[float]:
        """Weights of the rows, 1 being the weight of a row in plain SFT."""
        return [share * len(self.shares) for share in self.shares]


class MeanRowWeights:
    """Running mean of every row's weight; 1 is the weight a row has in plain SFT.

    Args:
        rows: Number of rows of the data set.
    """

    def __init__(self, rows: int) -> None:
        self.sums = torch.zeros(rows, dtype=torch.float64)
        self.times = torch.zeros(rows, dtype=torch.float64)

    def add(self, rows: Sequence[int], weights: Sequence[float]) -> None:
        """Add one optimizer step.

        Args:
            rows: Positions of its rows.
            weights: Softmax share of each, times the number of rows of the step.
        """
        index = torch.tensor(rows, dtype=torch.long)
        self.sums.index_add_(0, index, torch.tensor(weights, dtype=torch.float64))
        self.times.index_add_(0, index, torch.ones(len(rows), dtype=torch.float64))

    def mean(self) -> Tensor:
        """(rows,) mean weight, NaN for rows that were never drawn."""
        # 0/0 is NaN: a row that was never drawn has no weight, not a weight of 0.
        return self.sums / self.times

    def write(self, path: Path, dataset: Any) -> None:
        """Write one JSON line per row: position, origin, mean weight, times drawn, true label where known."""
        known = [name for name in ("origin", "harmful") if name in dataset.column_names]
        with path.open("w", encoding="utf-8") as file:
            for row, (weight, times) in enumerate(zip(self.mean().tolist(), self.times.tolist(), strict=True)):
                record = {"row": row, "weight": weight if times else None, "times": int(times)}
                record |= {name: dataset[row][name] for name in known}
                file.write(json.dumps(record) + "\n")
