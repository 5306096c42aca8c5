"""Weights that need no network, to compare with."""
