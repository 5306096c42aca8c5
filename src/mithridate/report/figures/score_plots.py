"""Harmful score against accuracy, and harmful score per variant."""

from typing import Any

from matplotlib.patches import Ellipse

from mithridate.report.figures.canvas import MARKERS, PALETTE, Draw, svg
from mithridate.report.figures.labels import Mark, place_labels
from mithridate.report.results import Results, VariantResult
from mithridate.report.roles import role, undefended
from mithridate.report.scores import ScoreOverSeeds
from mithridate.report.text import clean, percent, shorten

LABEL_LENGTH = 22
TRADEOFF_HEIGHT = 330


def _arms(score: ScoreOverSeeds) -> list[list[float]]:
    """Return the lengths of an error bar's two arms in percent, shape (2, 1)."""
    # matplotlib refuses negative lengths, and a Wilson bound may pass its share by one rounding error.
    return [[100 * max(0.0, score.value - score.low)], [100 * max(0.0, score.high - score.value)]]


def tradeoff(results: Results) -> str:
    """Return harmful score against fine-tune accuracy with 95 % intervals; the best corner is low and right."""
    return svg("tradeoff", *tradeoff_figure(results))


def tradeoff_figure(results: Results) -> tuple[float, Draw]:
    """Return height and drawing of the same; variants on the Pareto front, where it is known, are joined by a line."""
    shown = [v for v in results.variants if v.finetune_accuracy]
    return TRADEOFF_HEIGHT, lambda figure: _draw_tradeoff(figure, results, shown)


def _draw_tradeoff(figure: Any, results: Results, shown: list[VariantResult]) -> None:
    axes = figure.add_subplot()
    ends = [100 * end for v in shown if (fa := v.finetune_accuracy) for end in (fa.low, fa.high)]
    margin = max(2.0, 0.18 * (max(ends) - min(ends)))
    axes.set_xlim(min(ends) - margin, max(ends) + margin)
    # Below 0, or the markers of a harmful score of 0 would be cut in half.
    axes.set_ylim(-4, max(100 * v.harmful_score.high for v in shown) * 1.12 + 4)
    _mark_best_corner(axes)
    _join_front(axes, results, shown)
    marks = []
    for variant in shown:
        kind, fa, hs = role(results, variant), variant.finetune_accuracy, variant.harmful_score
        if fa is None:
            continue
        color = PALETTE[kind]
        at = (100 * fa.value, 100 * hs.value)
        axes.errorbar(*at, xerr=_arms(fa), yerr=_arms(hs), color=color, elinewidth=1, alpha=0.45, zorder=2)
        axes.plot(*at, MARKERS[kind], color=color, markersize=7, markeredgecolor=PALETTE["paper"], zorder=3)
        arms = (100 * fa.low, 100 * hs.low, 100 * fa.high, 100 * hs.high)
        marks.append(Mark(shorten(clean(variant.name), LABEL_LENGTH), at, arms))
    axes.set_xlabel("fine-tune accuracy (%)")
    axes.set_ylabel("harmful score (%)")
    place_labels(figure, axes, marks)


def _join_front(axes: Any, results: Results, shown: list[VariantResult]) -> None:
    # Drawn through the points as they are plotted, though the front itself compares means over seeds.
    places = [
        (100 * v.finetune_accuracy.value, 100 * v.harmful_score.value)
        for v in shown
        if v.name in results.front and v.finetune_accuracy
    ]
    if places:
        axes.plot(*zip(*sorted(places), strict=True), color=PALETTE["good"], linewidth=4, alpha=0.25, zorder=1)


def _mark_best_corner(axes: Any) -> None:
    for size in (0.36, 0.68, 1.0):
        disc = Ellipse((1, 0), size, size, transform=axes.transAxes, color=PALETTE["good"], linewidth=0)
        disc.set(alpha=0.07, zorder=0)
        axes.add_patch(disc)
    axes.text(0.985, 0.02, "best corner", transform=axes.transAxes, ha="right", va="bottom", color=PALETTE["good"])


def score_bars(results: Results) -> str:
    """Return one bar of harmful score per variant with its 95 % interval and a dot per seed."""
    height = 62 + 34 * len(results.variants)
    return svg("scores", height, lambda figure: _draw_bars(figure, results))


def _draw_bars(figure: Any, results: Results) -> None:
    axes = figure.add_subplot()
    names = [shorten(clean(v.name), LABEL_LENGTH) for v in results.variants]
    for place, variant in enumerate(results.variants):
        score, color = variant.harmful_score, PALETTE[role(results, variant)]
        axes.barh(place, 100 * score.value, height=0.5, color=color, alpha=0.35)
        axes.errorbar(100 * score.value, place, xerr=_arms(score), color=color, elinewidth=1.6, capsize=3)
        dots = [100 * value for value in score.seeds]
        axes.plot(dots, [place + 0.36] * len(dots), "o", color=color, markersize=3.6, clip_on=False)
        # Behind everything that is drawn: a single seed may lie beyond the interval.
        end = 100 * max([score.high, *score.seeds])
        axes.text(end + 1.5, place, percent(score.value), va="center")
    _reference_line(axes, results)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0, labelcolor=PALETTE["ink"])
    axes.invert_yaxis()
    axes.set_xlim(0, min(118.0, 100 * max(v.harmful_score.high for v in results.variants) * 1.05 + 12))
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("harmful score (%)")


def _reference_line(axes: Any, results: Results) -> None:
    bare = undefended(results)
    if bare is not None:
        axes.axvline(100 * bare.harmful_score.value, color=PALETTE["undefended"], linewidth=1, linestyle=(0, (3, 3)))
