"""What weights earned: gross and net returns, turnover, wealth."""

from typing import NamedTuple

import numpy as np


class Ledger(NamedTuple):
    """One strategy over consecutive bars.

    Attributes:
        weights: Weight of A held over each bar.
        gross: Return of each bar before costs.
        turnover: Sum of absolute weight changes against drifted weights, both legs; 1 to buy in.
        net: Return of each bar after costs.
    """

    weights: np.ndarray
    gross: np.ndarray
    turnover: np.ndarray
    net: np.ndarray

    @property
    def equity(self) -> np.ndarray:
        """Wealth after each bar, from 1."""
        return np.asarray(np.cumprod(1 + self.net))


def drift(weights: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """Weight of A after each bar if nothing is traded."""
    grown = weights * (1 + returns[:, 0])
    return np.asarray(grown / (grown + (1 - weights) * (1 + returns[:, 1])))


def settle(weights: np.ndarray, returns: np.ndarray, fee: float) -> Ledger:
    """Trade to each weight, pay the fee on what is traded, earn the bar.

    Args:
        weights: Weight of A over each bar, decided before it, shape (bars,).
        returns: Simple returns of A and B, shape (bars, 2).
        fee: Share of the traded value.
    """
    gross = weights * returns[:, 0] + (1 - weights) * returns[:, 1]
    moves = np.abs(weights[1:] - drift(weights, returns)[:-1])
    # Leaving cash buys w of A and 1 − w of B, together the whole wealth.
    turnover = np.concatenate([[1.0], 2 * moves])
    return Ledger(weights, gross, turnover, gross - fee * turnover)


def hold(returns: np.ndarray, fee: float) -> Ledger:
    """One asset outside the pair, bought once; its weights are nan.

    Args:
        returns: Simple returns, shape (bars,).
        fee: Share of the value, paid at the purchase.
    """
    turnover = np.zeros(len(returns))
    turnover[0] = 1.0
    return Ledger(np.full(len(returns), np.nan), returns, turnover, returns - fee * turnover)
