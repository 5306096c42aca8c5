"""What is kept of a step's passes over the rows that are trained on."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mithridate.training.processes import Processes
from mithridate.training.row_weights import RowShares
from mithridate.training.scored_rows import LogWeights, ScoredRows


class Observed:
    """Sums over the training rows of the step, of which TRL's usual metrics are made."""

    def __init__(self) -> None:
        self.nll = 0.0
        self.entropy = 0.0
        self.correct = 0.0
        self.tokens = 0.0

    def add(self, output: Any) -> None:
        """Add one forward pass."""
        self.nll -= float(output.log_probs.detach().sum())
        self.entropy += float(output.entropy.detach().sum())
        self.correct += float(output.is_top1.sum())
        self.tokens += float(output.label_mask.sum())

    def over(self, processes: Processes) -> "StepMeans":
        """Return the means over all processes."""
        mine = torch.tensor([self.nll, self.entropy, self.correct, self.tokens], dtype=torch.float64)
        nll, entropy, correct, tokens = processes.sum(mine.to(processes.device)).tolist()
        if not tokens:
            return StepMeans(math.nan, math.nan, math.nan, tokens)
        return StepMeans(nll / tokens, entropy / tokens, correct / tokens, tokens)


class StepMeans(NamedTuple):
    """Means per completion token over the rows that are trained on.

    Attributes:
        loss: Negative log-likelihood, in nats.
        entropy: Entropy of the next token, in nats.
        accuracy: Share of tokens that were the likeliest.
        tokens: How many there were.
    """

    loss: float
    entropy: float
    accuracy: float
    tokens: float


class Weighting:
    """A row weighting that remembers what it said of each row.

    Args:
        log_weights: The weighting.
    """

    def __init__(self, log_weights: LogWeights) -> None:
        self._log_weights = log_weights
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, rows: ScoredRows) -> Tensor:
        """(rows,) log-weights."""
        logs = self._log_weights(rows)
        self._seen.append((rows.row, logs.detach(), rows.mean_nll.detach()))
        return logs

    def shares(self, processes: Processes) -> RowShares:
        """Return the rows' weights over the whole step's batch, gathered from all processes."""
        mine = [[column.double().tolist() for column in columns] for columns in self._seen]
        found = [row for part in processes.gather(mine) for columns in part for row in zip(*columns, strict=True)]
        rows, weights, losses = (list(column) for column in zip(*found, strict=True))
        logs = torch.tensor(weights, dtype=torch.float64)
        # A softmax of nothing but −inf is NaN; the step then learns from no row.
        shares = torch.zeros_like(logs) if torch.isneginf(logs).all() else logs.softmax(dim=0)
        return RowShares([int(row) for row in rows], shares.tolist(), losses)
