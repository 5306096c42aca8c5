"""Scores along an axis: one line per variant."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.ticker import FixedLocator, NullLocator

from mithridate.report.axis_tables import WORDS, value_text
from mithridate.report.figures.canvas import PALETTE, Draw
from mithridate.report.results import Results
from mithridate.report.roles import methods
from mithridate.report.scores import ScoreOverSeeds
from mithridate.report.text import clean, shorten

SERIES = [name for name in PALETTE if name.startswith("series")]
# Marker and dash tell the lines apart where colors cannot.
MARKERS = "oD^vPX*<"
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (3, 1, 1, 1)))
LABEL_LENGTH = 22
CATEGORIES = "attack"
"""The axis whose values are words, not numbers."""


def styles(results: Results) -> dict[str, dict[str, Any]]:
    """Return the line style of each variant: ink for the undefended, a color, marker and dash for every other."""
    found: dict[str, dict[str, Any]] = {}
    bare = [variant for variant in results.variants if not methods(variant)]
    for place, variant in enumerate(bare):
        found[variant.name] = {"color": PALETTE["ink"], "marker": "s", "linestyle": DASHES[place % len(DASHES)]}
    for place, variant in enumerate(v for v in results.variants if methods(v)):
        found[variant.name] = {
            "color": PALETTE[SERIES[place % len(SERIES)]],
            "marker": MARKERS[place % len(MARKERS)],
            # Colors and markers start over after eight variants; from there on the dash is another one.
            "linestyle": DASHES[(place // 2 + place // len(MARKERS)) % len(DASHES)],
        }
    return found


def axis_figure(results: Results, axis: str) -> tuple[float, Draw]:
    """Return height and drawing of harmful score and accuracy along an axis."""
    rows = math.ceil(len(_drawn(results, axis)) / 3)
    # 18 CSS pixels for each row of three names in the legend below the panels.
    return 470 + 18 * rows, lambda figure: _draw_axis(figure, results, axis)


def _draw_axis(figure: Any, results: Results, axis: str) -> None:
    panels = figure.subplots(2, 1, sharex=True)
    names = {"harmful_score": "harmful score (%)", "finetune_accuracy": "fine-tune accuracy (%)"}
    for panel, (measure, name) in zip(panels, names.items(), strict=True):
        for variant in _drawn(results, axis):
            places = zip(_positions(results, axis), results.along(axis), strict=True)
            scores = {x: getattr(point, measure) for x, at in places if (point := results.point(variant, at))}
            draw = _marks if axis == CATEGORIES else _line
            draw(panel, scores, shorten(clean(variant), LABEL_LENGTH), styles(results)[variant])
        panel.set_ylabel(name)
    _scale(panels[1], axis, _positions(results, axis), [value_text(value) for value in results.axes[axis]])
    # The harmful score from 0, so that heights compare as the values do.
    panels[0].set_ylim(bottom=min(0.0, panels[0].get_ylim()[0]))
    panels[1].set_xlabel(WORDS[axis])
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, columnspacing=1.2, handlelength=2.4)


def _drawn(results: Results, axis: str) -> list[str]:
    """The variants that have a line; values at which a defense cannot act are left out of it."""
    # A variant that failed at every seed of the recipe's setting has no style and no line.
    measured = {variant.name for variant in results.variants}
    return [name for name in results.tried(axis) if name in measured]


def _line(axes: Any, scores: dict[float, ScoreOverSeeds], name: str, style: dict[str, Any]) -> None:
    """Means over seeds, with a band for the 95 % interval."""
    x, measured = list(scores), scores.values()
    axes.plot(x, [100 * score.mean for score in measured], label=name, markersize=5, linewidth=1.5, **style)
    low, high = ([100 * score.spread[side] for score in measured] for side in (0, 1))
    axes.fill_between(x, low, high, color=style["color"], alpha=0.1, linewidth=0)


def _marks(axes: Any, scores: dict[float, ScoreOverSeeds], name: str, style: dict[str, Any]) -> None:
    """Means over seeds without a line, since categories have no order, and bars for the 95 % interval."""
    means = [100 * score.mean for score in scores.values()]
    ends = [[100 * score.spread[side] for score in scores.values()] for side in (0, 1)]
    # A mean over seeds may lie a rounding beside an end.
    lengths = [[max(0.0, abs(mean - end)) for mean, end in zip(means, side, strict=True)] for side in ends]
    axes.errorbar(
        list(scores),
        means,
        yerr=lengths,
        label=name,
        markersize=5,
        elinewidth=1,
        color=style["color"],
        marker=style["marker"],
        linestyle="none",
    )


def _positions(results: Results, axis: str) -> list[float]:
    """Where an axis's values stand; categories in their order, one beside the other."""
    values: Sequence[float | str] = results.axes[axis]
    return [float(place) if isinstance(value, str) else value for place, value in enumerate(values)]


def _scale(axes: Any, axis: str, positions: list[float], words: list[str]) -> None:
    """Ticks at the measured values; a logarithmic scale where values are steps of a factor."""
    # A ratio may be 0, which a logarithmic scale cannot show.
    if axis not in ("ratio", CATEGORIES):
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(positions))
    axes.xaxis.set_minor_locator(NullLocator())
    # Names of attacks are long; slanted they do not run into each other.
    slant = {"rotation": 20, "ha": "right"} if axis == CATEGORIES else {}
    axes.set_xticks(positions, [shorten(word, LABEL_LENGTH) for word in words], **slant)
