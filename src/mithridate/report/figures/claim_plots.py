"""Claims: estimates with their intervals."""

from collections.abc import Sequence
from typing import Any

from mithridate.report.axis_results import Claim, Estimate
from mithridate.report.figures.canvas import PALETTE, Draw
from mithridate.report.text import clean, shorten

ANSWER_COLORS = {"supported": "good", "not supported": "undefended", "not measured": "muted"}


def claim_figure(claim: Claim) -> tuple[float, Draw]:
    """Return height and drawing of a claim's estimates."""
    return 78 + 25 * max(1, len(_plotted(claim))), lambda figure: _draw_claim(figure.add_subplot(), claim)


def _plotted(claim: Claim) -> list[Estimate]:
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
        # Below the estimate, not on it, where they would cover its interval.
        dots = [factor * value for value in row.seeds]
        axes.plot(dots, [place + 0.27] * len(dots), "o", color=color, markersize=2.6, alpha=0.7)
    axes.set_yticks(range(len(rows)), [shorten(clean(row.what), 36) for row in rows])
    axes.tick_params(axis="y", length=0, labelcolor=PALETTE["ink"])
    # Upside down, so that the rows stand in the order of the table.
    axes.set_ylim(max(0, len(rows) - 1) + 0.6, -0.6)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(claim.quantity if rows else "not measured", loc="right")


def claims_figure(claims: Sequence[Claim]) -> tuple[float, Draw]:
    """Return height and drawing of all claims, two side by side, with their verdicts as titles."""
    pairs = [claims[place : place + 2] for place in range(0, len(claims), 2)]
    heights = [max(claim_figure(claim)[0] for claim in pair) + 34 for pair in pairs]
    return sum(heights), lambda figure: _draw_claims(figure, claims, heights)


def _draw_claims(figure: Any, claims: Sequence[Claim], heights: list[float]) -> None:
    panels = figure.subplots(len(heights), 2, height_ratios=heights, squeeze=False)
    for axes, claim in zip(panels.flat, claims, strict=False):
        _draw_claim(axes, claim)
        color = PALETTE[ANSWER_COLORS[claim.verdict]]
        axes.set_title(f"{claim.name}: {claim.verdict}", color=color, fontweight="bold", loc="left")
