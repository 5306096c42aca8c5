"""Row weights by true label."""

import math
from typing import Any

from mithridate.report.figures.canvas import PALETTE, svg
from mithridate.report.result_parts import WeightedRows

HEIGHT = 250
BINS = 32
# Smaller weights are drawn in the first bin: such a row is as good as left out.
FLOOR = 1e-3
LABELS: dict[bool | None, tuple[str, str]] = {
    False: ("benign rows", "defended"),
    True: ("harmful rows", "undefended"),
    None: ("rows of unknown label", "clean"),
}


def weight_figure(name: str, weights: WeightedRows) -> str:
    """Return a histogram of the weights (logarithmic) per label, each in percent of that label's rows."""
    return svg(name, HEIGHT, lambda figure: _draw(figure, weights))


def _draw(figure: Any, weights: WeightedRows) -> None:
    axes = figure.add_subplot()
    largest = max([2.0, *(row.weight for row in weights.rows)])
    low, high = math.log10(FLOOR), math.log10(1.05 * largest)
    edges = [10 ** (low + (high - low) * step / BINS) for step in range(BINS + 1)]
    for label, (title, color) in LABELS.items():
        values = [max(row.weight, FLOOR) for row in weights.rows if row.harmful is label]
        if values:
            # Per label: harmful rows are few, and counts would hide them behind the benign ones.
            share = [100 / len(values)] * len(values)
            look = {"histtype": "stepfilled", "facecolor": PALETTE[color], "alpha": 0.45}
            axes.hist(values, bins=edges, weights=share, label=f"{title} ({len(values):,})", **look)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda weight, _: f"{weight:g}")
    axes.axvline(1, color=PALETTE["muted"], linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        "plain fine-tuning",
        (1, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-4, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        color=PALETTE["muted"],
    )
    axes.set_xlabel("row weight (1 = plain fine-tuning)")
    axes.set_ylabel("share of the label's rows (%)")
    axes.legend(loc="upper left")
