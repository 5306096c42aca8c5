"""The papers' tables: pipelines over axes, with tables, plots, a Pareto front and the answers to the claims."""

from mithridate.compare.run import compare

__all__ = ["compare"]
