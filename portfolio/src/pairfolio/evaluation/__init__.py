"""What a sequence of weights earned: costs, metrics, intervals, regimes."""
