"""Figures of the report, each a function from results to inline SVG; only these modules import matplotlib."""
