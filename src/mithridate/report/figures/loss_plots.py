"""Training loss by optimizer step."""

import math
from typing import Any

from mithridate.report.figures.canvas import PALETTE, svg
from mithridate.report.result_parts import LossCurve
from mithridate.report.text import shorten

HEIGHT = 250
LEGEND_LINE = 16
LABEL_LENGTH = 52
SERIES = [color for name, color in PALETTE.items() if name.startswith("series")]


def loss_figure(name: str, trainings: dict[str, list[LossCurve]]) -> str:
    """Return the curves of all trainings of a stage, a color for each and a line per seed."""
    return svg(name, HEIGHT + LEGEND_LINE * len(trainings), lambda figure: _draw(figure, trainings))


def _draw(figure: Any, trainings: dict[str, list[LossCurve]]) -> None:
    axes = figure.add_subplot()
    for place, (title, curves) in enumerate(trainings.items()):
        color = SERIES[place % len(SERIES)]
        for position, curve in enumerate(curves):
            losses = [loss if loss is not None and math.isfinite(loss) else math.nan for loss in curve.losses]
            # Only the first seed is named, or the legend would list each training once per seed.
            label = shorten(title, LABEL_LENGTH) if position == 0 else None
            axes.plot(curve.steps, losses, "-", color=color, linewidth=1.3, alpha=0.85, label=label)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss")
    # From 0, so that a fall is not exaggerated; below it only where an objective is negative.
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=1, handlelength=1.6, fontsize=9)
