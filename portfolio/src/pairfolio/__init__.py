"""Sharpe-trained allocation between two opposed assets, held near the minimum-variance weight."""

__version__ = "0.1.0"
