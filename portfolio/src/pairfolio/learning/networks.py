"""Networks from a window of features to softmax weights of the two assets."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pairfolio.config import NetworkSettings
from pairfolio.learning.tabl import TemporalAttention


class Recurrent(nn.Module):
    """The last state of an LSTM or GRU."""

    def __init__(self, features: int, settings: NetworkSettings) -> None:
        super().__init__()
        cell = nn.LSTM if settings.kind == "lstm" else nn.GRU
        self.cell = cell(features, settings.hidden, batch_first=True)

    def forward(self, windows: Tensor) -> Tensor:
        """(rows, window, features) to (rows, hidden)."""
        states: Tensor = self.cell(windows)[0]
        return states[:, -1]


class Causal(nn.Module):
    """One dilated convolution that sees only the past, with a residual path."""

    def __init__(self, channels: int, hidden: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.pad = 2 * dilation
        self.convolution = nn.Conv1d(channels, hidden, kernel_size=3, dilation=dilation)
        self.path = nn.Conv1d(channels, hidden, kernel_size=1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, signal: Tensor) -> Tensor:
        """(rows, channels, window) to (rows, hidden, window)."""
        past = nn.functional.pad(signal, (self.pad, 0))
        mixed: Tensor = self.path(signal) + self.dropout(torch.relu(self.convolution(past)))
        return mixed


class Temporal(nn.Module):
    """Temporal convolutional network: dilations 1, 2, 4, … until the window is covered."""

    def __init__(self, features: int, settings: NetworkSettings) -> None:
        super().__init__()
        depth = max(1, math.ceil(math.log2((settings.window - 1) / 2 + 1)))
        widths = [features] + [settings.hidden] * depth
        self.layers = nn.Sequential(
            *(Causal(widths[i], settings.hidden, 2**i, settings.dropout) for i in range(depth))
        )

    def forward(self, windows: Tensor) -> Tensor:
        """(rows, window, features) to (rows, hidden)."""
        signal: Tensor = self.layers(windows.transpose(1, 2))
        return signal[:, :, -1]


class Perceptron(nn.Module):
    """Two hidden layers over the flattened window."""

    def __init__(self, features: int, settings: NetworkSettings) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(features * settings.window, settings.hidden),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, settings.hidden),
            nn.ReLU(),
        )

    def forward(self, windows: Tensor) -> Tensor:
        """(rows, window, features) to (rows, hidden)."""
        hidden: Tensor = self.layers(windows)
        return hidden


BODIES: dict[str, Callable[[int, NetworkSettings], nn.Module]] = {
    "lstm": Recurrent,
    "gru": Recurrent,
    "tcn": Temporal,
    "tabl": TemporalAttention,
    "mlp": Perceptron,
}


class Allocator(nn.Module):
    """A body, and a softmax over two logits that gives the anchor weight before any training.

    Args:
        features: Features of one bar.
        settings: Kind and size of the body.
        start: Weight of A that the untrained network gives to every window.
    """

    def __init__(self, features: int, settings: NetworkSettings, start: float = 0.5) -> None:
        super().__init__()
        self.body = BODIES[settings.kind](features, settings)
        self.dropout = nn.Dropout(settings.dropout)
        self.head = nn.Linear(settings.hidden, 2)
        held = min(max(start, 0.01), 0.99)
        logit = math.log(held / (1 - held)) / 2
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.copy_(torch.tensor([logit, -logit]))

    def forward(self, windows: Tensor) -> Tensor:
        """Weight of A for each window: (rows, window, features) to (rows,); B has the rest."""
        logits: Tensor = self.head(self.dropout(self.body(windows)))
        return torch.softmax(logits, dim=-1)[:, 0]
