"""Rolling minimum variance and equal risk, by skfolio."""

from typing import Literal

import numpy as np

Rule = Literal["minimum_variance", "equal_risk"]


def rolling_weights(
    returns: np.ndarray, decisions: range, rule: Rule, lookback: int, refit: int
) -> np.ndarray:
    """Weight of A for each decision, from the returns of the bars before it.

    Args:
        returns: Simple returns of A and B, shape (bars - 1, 2); row k is earned from bar k to bar k + 1.
        decisions: Bars at whose close a weight is decided; row k - 1 is the last known at bar k.
        rule: Least variance, or equal shares of the variance.
        lookback: Bars looked back on.
        refit: Bars after which the rule is fitted anew; its weight is kept until then.
    """
    from skfolio.optimization import MeanRisk, RiskBudgeting

    chosen = MeanRisk if rule == "minimum_variance" else RiskBudgeting
    weights = np.empty(len(decisions))
    for place in range(0, len(decisions), refit):
        bar = decisions[place]
        past = returns[max(0, bar - lookback) : bar]
        # Both rules ignore scale, the solver's tolerances do not: returns of a minute would look riskless.
        weights[place : place + refit] = chosen().fit(past / np.std(past)).weights_[0]
    return np.clip(weights, 0.0, 1.0)
