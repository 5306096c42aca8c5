"""Dose curves: what each strength cost the user's task and what it did to the harmful rows."""

import math
from typing import Any

from mithridate.report.figures.canvas import PALETTE, svg
from mithridate.report.result_parts import VariantDoses
from mithridate.report.text import clean, shorten

HEIGHT = 300


def dose_figure(name: str, curves: list[VariantDoses]) -> str:
    """Return the seeds' curves of one method and parameter: rises of the losses above, harmful loss below."""
    return svg(name, HEIGHT, lambda figure: _draw(figure, curves))


def _draw(figure: Any, curves: list[VariantDoses]) -> None:
    top, bottom = figure.subplots(2, 1, sharex=True)
    for curve in curves:
        doses = [point.dose for point in curve.points]
        rises = [_finite(point.rise) for point in curve.points]
        harmful = [_finite(point.harmful_loss) for point in curve.points]
        line = {"markersize": 4, "linewidth": 1.4, "alpha": 0.8}
        top.plot(doses, rises, "o-", color=PALETTE["defended"], **line)
        bottom.plot(doses, harmful, "o-", color=PALETTE["undefended"], **line)
        if limited_by_safe_rows(curve):
            top.plot(doses, [_finite(point.safe_rise) for point in curve.points], "s--", color=PALETTE["good"], **line)
        _mark_chosen(top, bottom, curve)
    # A set, as seeds mostly share one budget and its label would be written over itself.
    for budget in sorted({curve.budget for curve in curves if curve.budget is not None}):
        top.axhline(budget, color=PALETTE["muted"], linewidth=1, linestyle=(0, (4, 3)))
        _label_budget(top, budget, "budget")
    for budget in sorted({c.safe_budget for c in curves if limited_by_safe_rows(c) and c.safe_budget is not None}):
        top.axhline(budget, color=PALETTE["good"], linewidth=1, linestyle=(0, (4, 3)))
        _label_budget(top, budget, "safe rows' budget")
    top.set_ylabel("rise of loss")
    bottom.set_ylabel("harmful loss")
    bottom.set_xlabel(f"dose: {shorten(clean(curves[0].parameter), 40)}")


def limited_by_safe_rows(curve: VariantDoses) -> bool:
    """Return whether the provider's safe rows limited a search besides the user's rows."""
    return curve.safe_budget is not None and any(point.safe_rise is not None for point in curve.points)


def _label_budget(axes: Any, budget: float, called: str) -> None:
    axes.annotate(
        f"{called} {budget:g}",
        (1, budget),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        color=PALETTE["muted"],
    )


def _mark_chosen(top: Any, bottom: Any, curve: VariantDoses) -> None:
    if curve.chosen is None:
        return
    for axes in (top, bottom):
        axes.axvline(curve.chosen, color=PALETTE["chosen"], linewidth=1.2, alpha=0.7, zorder=1)
    at = [point for point in curve.points if math.isclose(point.dose, curve.chosen)]
    # A ring besides the line, so that the choice can be told without color.
    ring = {"markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.8, "color": PALETTE["chosen"]}
    top.plot([p.dose for p in at], [_finite(p.rise) for p in at], "o", **ring)
    bottom.plot([p.dose for p in at], [_finite(p.harmful_loss) for p in at], "o", **ring)


def _finite(value: float | None) -> float:
    """Return a number that matplotlib draws, or NaN, which it leaves out."""
    return value if value is not None and math.isfinite(value) else math.nan
