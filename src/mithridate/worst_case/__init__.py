"""Finds the worst case of every defense: a search over attacks and training settings, within a bounded loss of use."""
