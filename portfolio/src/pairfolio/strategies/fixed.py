"""Rules without learning: constant mixes, each asset held, bought once."""

import numpy as np


def constant(weight: float, bars: int) -> np.ndarray:
    """The same weight at every bar, so that drift is traded back."""
    return np.full(bars, weight)


def bought_once(weight: float, returns: np.ndarray) -> np.ndarray:
    """Weights of a mix bought before the first bar and never touched, shape (bars,).

    Args:
        weight: Of A at the purchase.
        returns: Simple returns of A and B, shape (bars, 2).
    """
    worth = np.cumprod(1 + returns[:-1], axis=0)
    worth = np.vstack([np.ones(2), worth]) * np.array([weight, 1 - weight])
    return np.asarray(worth[:, 0] / worth.sum(axis=1))
