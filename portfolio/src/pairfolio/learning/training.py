"""Train one network on one block of time."""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from pairfolio.config import Settings
from pairfolio.learning.loss import Moments, allocation_loss, anchor_weight, moments, net_returns, sharpe
from pairfolio.learning.networks import Allocator


class Sample(NamedTuple):
    """Consecutive decisions.

    Attributes:
        windows: Features up to each decision, shape (decisions, window, features).
        returns: Simple returns of A and B after each decision, shape (decisions, 2).
    """

    windows: Tensor
    returns: Tensor


class Trained(NamedTuple):
    """A network and how it came about.

    Attributes:
        network: In evaluation mode, at the epoch chosen.
        moments: Of the training returns.
        epoch: Epochs behind it; 0 is the untrained network, which holds the anchor weight.
        validation: Net Sharpe per bar on the validation block after each epoch, the untrained network first.
    """

    network: Allocator
    moments: Moments
    epoch: int
    validation: list[float]


def train(training: Sample, validation: Sample, settings: Settings, seed: int) -> Trained:
    """Adam on the loss, block by block; keep the epoch with the best net Sharpe on the validation block.

    Blocks are contiguous and their order is shuffled, never the bars inside them, since costs link bars.
    """
    found = moments(training.returns)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        start = anchor_weight(found, settings.loss)
        network = Allocator(training.windows.shape[-1], settings.network, start)
        scores, epoch = _epochs(network, training, validation, found, settings)
    return Trained(network.eval(), found, epoch, scores)


def _epochs(
    network: Allocator, training: Sample, validation: Sample, found: Moments, settings: Settings
) -> tuple[list[float], int]:
    plan = settings.training
    optimizer = torch.optim.Adam(network.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    scores, chosen, best = [score(network, validation, settings.loss.fee)], 0, _copy(network)
    for epoch in range(1, plan.epochs + 1):
        network.train()
        for block in time_blocks(len(training.returns), plan.block):
            weights = network(training.windows[block])
            loss = allocation_loss(weights, training.returns[block], found, settings.loss)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        scores.append(score(network, validation, settings.loss.fee))
        if not plan.early_stop or scores[-1] > scores[chosen]:
            chosen, best = epoch, _copy(network)
        if plan.early_stop and epoch - chosen >= plan.patience:
            break
    network.load_state_dict(best)
    return scores, chosen


def time_blocks(bars: int, size: int) -> list[slice]:
    """Contiguous blocks from a random offset, in random order; rests under half a block are left out."""
    size = min(size, bars)
    offset = int(torch.randint(size, ()).item()) if bars > size else 0
    edges = [0, *range(offset, bars, size), bars]
    blocks = [slice(start, stop) for start, stop in pairwise(edges)]
    blocks = [block for block in blocks if block.stop - block.start >= max(size // 2, 2)]
    return [blocks[i] for i in torch.randperm(len(blocks)).tolist()]


@torch.no_grad()
def decide(network: Allocator, windows: Tensor) -> Tensor:
    """Weights of A without dropout, shape (decisions,)."""
    network.eval()
    weights: Tensor = network(windows)
    return weights


def score(network: Allocator, sample: Sample, fee: float) -> float:
    """Net Sharpe per bar over consecutive decisions."""
    return float(sharpe(net_returns(decide(network, sample.windows), sample.returns, fee)))


def _copy(network: Allocator) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
