"""The comparison's plots: scores along an axis, the Pareto front, and one panel per claim."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import FixedLocator, NullLocator

from mithridate.compare.results import Claim, Comparison, Measure, Pipeline, Row
from mithridate.compare.roles import Role
from mithridate.compare.tables import WORDS, value_text
from mithridate.report.figures.canvas import PALETTE, WIDTH, document
from mithridate.report.figures.labels import Mark, place_labels
from mithridate.report.text import clean, shorten

SERIES = [name for name in PALETTE if name.startswith("series")]
# Marker and dash tell the lines apart where colors cannot.
MARKERS = "oD^vPX*<"
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (3, 1, 1, 1)))
LABEL_LENGTH = 22
VERDICT_COLORS = {"supported": "good", "not supported": "undefended", "not measured": "muted"}

Draw = Callable[[Any], None]


def styles(pipelines: Sequence[Pipeline]) -> dict[str, dict[str, Any]]:
    """Line style of each pipeline: ink for the undefended, a color, marker and dash for every other."""
    found: dict[str, dict[str, Any]] = {}
    bare = [p for p in pipelines if p.role == Role.UNDEFENDED]
    for place, pipeline in enumerate(bare):
        found[pipeline.name] = {"color": PALETTE["ink"], "marker": "s", "linestyle": DASHES[place % len(DASHES)]}
    for place, pipeline in enumerate(p for p in pipelines if p.role != Role.UNDEFENDED):
        found[pipeline.name] = {
            "color": PALETTE[SERIES[place % len(SERIES)]],
            "marker": MARKERS[place % len(MARKERS)],
            "linestyle": DASHES[(place // 2) % len(DASHES)],
        }
    return found


def axis_figure(comparison: Comparison, axis: str) -> tuple[float, Draw]:
    """Height and drawing of harmful score and accuracy along an axis."""
    rows = math.ceil(len(comparison.over(axis)) / 3)
    return 470 + 18 * rows, lambda figure: _draw_axis(figure, comparison, axis)


def _draw_axis(figure: Any, comparison: Comparison, axis: str) -> None:
    panels = figure.subplots(2, 1, sharex=True)
    names = {"harmful_score": "harmful score (%)", "finetune_accuracy": "fine-tune accuracy (%)"}
    for panel, (measure, name) in zip(panels, names.items(), strict=True):
        for pipeline in comparison.over(axis):
            points = [comparison.point(pipeline.name, setting) for setting in comparison.along(axis)]
            style = styles(comparison.pipelines)[pipeline.name]
            measures = [getattr(point, measure) for point in points]
            _line(panel, comparison.axes[axis], measures, shorten(clean(pipeline.name), LABEL_LENGTH), style)
        panel.set_ylabel(name)
    _scale(panels[1], axis, comparison.axes[axis])
    panels[0].set_ylim(bottom=min(0.0, panels[0].get_ylim()[0]))
    panels[1].set_xlabel(WORDS[axis])
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, columnspacing=1.2, handlelength=2.4)


def _line(axes: Any, x: Sequence[float], measures: list[Measure], name: str, style: dict[str, Any]) -> None:
    """Means over seeds, with a band for the 95 % interval."""
    ends = [measure.shown for measure in measures]
    axes.plot(x, [100 * m.seed_mean for m in measures], label=name, markersize=5, linewidth=1.5, **style)
    low, high = ([100 * end[side] for end in ends] for side in (0, 1))
    axes.fill_between(x, low, high, color=style["color"], alpha=0.1, linewidth=0)


def _scale(axes: Any, axis: str, values: list[float]) -> None:
    """Ticks at the measured values; a logarithmic scale where values are steps of a factor."""
    if axis != "ratio":
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(values, [value_text(value) for value in values])


def pareto_figure(comparison: Comparison) -> tuple[float, Draw]:
    """Height and drawing of harmful score against accuracy, the pipelines on the front filled and joined."""
    return 360, lambda figure: _draw_pareto(figure, comparison)


def _draw_pareto(figure: Any, comparison: Comparison) -> None:
    axes, marks, front = figure.add_subplot(), [], []
    for pipeline in comparison.pipelines:
        point = comparison.point(pipeline.name, comparison.base)
        if point is None:
            continue
        hs, fa, style = point.harmful_score, point.finetune_accuracy, styles(comparison.pipelines)[pipeline.name]
        at, on_front = (100 * fa.seed_mean, 100 * hs.seed_mean), pipeline.name in comparison.front
        arms = {"xerr": _arms(fa), "yerr": _arms(hs), "color": style["color"]}
        axes.errorbar(*at, elinewidth=1, alpha=0.4, zorder=2, **arms)
        face = style["color"] if on_front else PALETTE["paper"]
        look = {"markersize": 8, "markeredgecolor": style["color"], "markerfacecolor": face, "markeredgewidth": 1.5}
        axes.plot(*at, style["marker"], zorder=3, **look)
        front += [at] if on_front else []
        (left, right), (bottom, top) = fa.shown, hs.shown
        box = (100 * left, 100 * bottom, 100 * right, 100 * top)
        marks.append(Mark(shorten(clean(pipeline.name), LABEL_LENGTH), at, box))
    if front:
        axes.plot(*zip(*sorted(front), strict=True), color=PALETTE["good"], linewidth=4, alpha=0.25, zorder=1)
    axes.margins(0.16)
    axes.set_xlabel("fine-tune accuracy (%)")
    axes.set_ylabel("harmful score (%)")
    place_labels(figure, axes, marks)


def _arms(measure: Measure) -> list[list[float]]:
    low, high = measure.shown
    return [[100 * (measure.seed_mean - low)], [100 * (high - measure.seed_mean)]]


def claim_figure(claim: Claim) -> tuple[float, Draw]:
    """Height and drawing of a claim's estimates."""
    return 78 + 25 * max(1, len(_plotted(claim))), lambda figure: _draw_claim(figure.add_subplot(), claim)


def _plotted(claim: Claim) -> list[Row]:
    return [row for row in claim.rows if row.plotted]


def _draw_claim(axes: Any, claim: Claim) -> None:
    """Estimates with their intervals, one below the other; dots are single seeds, the line is no effect."""
    rows, factor = _plotted(claim), 1.0 if claim.unit == "AUC" else 100.0
    axes.axvline(factor * claim.neutral, color=PALETTE["muted"], linewidth=1, linestyle=(0, (3, 3)))
    for place, row in enumerate(rows):
        color = PALETTE["defended"] if row.decides or not any(r.decides for r in rows) else PALETTE["muted"]
        if row.low is not None and row.high is not None:
            axes.plot([factor * row.low, factor * row.high], [place, place], color=color, linewidth=2)
        axes.plot(factor * row.value, place, "o", color=color, markersize=6)
        dots = [factor * value for value in row.seeds]
        axes.plot(dots, [place + 0.27] * len(dots), "o", color=color, markersize=2.6, alpha=0.7)
    axes.set_yticks(range(len(rows)), [shorten(clean(row.what), 36) for row in rows])
    axes.tick_params(axis="y", length=0, labelcolor=PALETTE["ink"])
    axes.set_ylim(max(0, len(rows) - 1) + 0.6, -0.6)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(claim.quantity if rows else "not measured", loc="right")


def claims_figure(claims: Sequence[Claim]) -> tuple[float, Draw]:
    """Height and drawing of all claims, two beside each other, with their verdicts as titles."""
    pairs = [claims[place : place + 2] for place in range(0, len(claims), 2)]
    heights = [max(claim_figure(claim)[0] for claim in pair) + 34 for pair in pairs]
    return sum(heights), lambda figure: _draw_claims(figure, claims, heights)


def _draw_claims(figure: Any, claims: Sequence[Claim], heights: list[float]) -> None:
    panels = figure.subplots(len(heights), 2, height_ratios=heights, squeeze=False)
    for axes, claim in zip(panels.flat, claims, strict=False):
        _draw_claim(axes, claim)
        color = PALETTE[VERDICT_COLORS[claim.verdict]]
        axes.set_title(f"{claim.name}: {claim.verdict}", color=color, fontweight="bold", loc="left")


def write_plots(comparison: Comparison, folder: Path) -> None:
    """Write every plot as an SVG file of its own, on white."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, tuple[float, Draw, float]] = {
        axis: (*axis_figure(comparison, axis), WIDTH + 120) for axis in comparison.axes
    }
    files["pareto"] = (*pareto_figure(comparison), WIDTH + 120)
    files["claims"] = (*claims_figure(comparison.claims), 2.4 * WIDTH)
    for name, (height, draw, width) in files.items():
        (folder / f"{name}.svg").write_text(document(height, draw, width), encoding="utf-8")
