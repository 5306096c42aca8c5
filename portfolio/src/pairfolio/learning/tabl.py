"""TABL: a bilinear layer, then one with attention over time.

After Tran, Iosifidis, Kanniainen and Gabbouj (2019), Temporal Attention-Augmented Bilinear Network for
Financial Time-Series Data Analysis, IEEE TNNLS 30(5), arXiv 1712.00975. With X a window, features by bars:

    bilinear     Y = φ(W₁·X·W₂ + B)
    with         X̄ = W₁·X
    attention    E = X̄·W                        W is bars by bars, its diagonal held at 1/bars
                 A = softmax of each row of E    over the bars
                 X̃ = μ·(X̄ ⊙ A) + (1 − μ)·X̄
                 Y = φ(X̃·W₂ + B)

Differences from the paper: μ (its λ) is the sigmoid of a free number instead of one clipped to 0…1; φ is a
ReLU in both layers, because a softmax head follows; the first layer halves the bars; dropout lies between.
"""

import torch
from torch import Tensor, nn

from pairfolio.config import NetworkSettings


class Bilinear(nn.Module):
    """W₁·X·W₂ + B, then ReLU."""

    def __init__(self, rows: int, columns: int, rows_out: int, columns_out: int) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.empty(rows_out, rows))
        self.right = nn.Parameter(torch.empty(columns, columns_out))
        self.shift = nn.Parameter(torch.zeros(rows_out, columns_out))
        nn.init.kaiming_uniform_(self.left, nonlinearity="relu")
        nn.init.kaiming_uniform_(self.right, mode="fan_out", nonlinearity="relu")

    def mix(self, projected: Tensor) -> Tensor:
        """What the second product sees of W₁·X; here all of it."""
        return projected

    def forward(self, signal: Tensor) -> Tensor:
        """(…, rows, columns) to (…, rows_out, columns_out)."""
        return torch.relu(self.mix(self.left @ signal) @ self.right + self.shift)


class Attention(Bilinear):
    """The bilinear layer with a learnt mask over its columns, the bars."""

    def __init__(self, rows: int, columns: int, rows_out: int, columns_out: int) -> None:
        super().__init__(rows, columns, rows_out, columns_out)
        self.energy = nn.Parameter(torch.full((columns, columns), 1 / columns))
        # The sigmoid of 0 gives the mask and the signal itself equal shares at the start.
        self.share = nn.Parameter(torch.zeros(()))

    def mix(self, projected: Tensor) -> Tensor:
        """μ·(X̄ ⊙ A) + (1 − μ)·X̄."""
        columns = self.energy.shape[0]
        fixed = torch.eye(columns, dtype=torch.bool)
        energy = projected @ self.energy.masked_fill(fixed, 1 / columns)
        share = torch.sigmoid(self.share)
        return share * projected * torch.softmax(energy, dim=-1) + (1 - share) * projected


class TemporalAttention(nn.Module):
    """A bilinear layer to half the bars, then attention down to one column of hidden values."""

    def __init__(self, features: int, settings: NetworkSettings) -> None:
        super().__init__()
        bars = max(2, settings.window // 2)
        self.bilinear = Bilinear(features, settings.window, settings.hidden, bars)
        self.dropout = nn.Dropout(settings.dropout)
        self.attention = Attention(settings.hidden, bars, settings.hidden, 1)

    def forward(self, windows: Tensor) -> Tensor:
        """(rows, window, features) to (rows, hidden)."""
        signal: Tensor = self.attention(self.dropout(self.bilinear(windows.transpose(1, 2))))
        return signal[:, :, 0]
