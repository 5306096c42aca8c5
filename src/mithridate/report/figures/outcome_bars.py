"""What the answers are: shares that fill a bar per variant."""

from typing import Any

from mithridate.report.figures.canvas import PALETTE, svg
from mithridate.report.result_parts import OUTCOMES
from mithridate.report.results import Results
from mithridate.report.text import clean, shorten

LABEL_LENGTH = 18
COLORS = {
    "refused": "defended",
    "label_only": "series4",
    "too_short": "clean",
    "broken": "chosen",
    "complied": "good",
}
READABLE = 0.08
"""Smallest share that has room for its figure."""


def outcome_figure(results: Results, name: str) -> str:
    """Return one stacked bar per variant for a set of prompts; to comply with harmful ones is drawn as harm."""
    shown = [variant for variant in results.variants if name in variant.outcomes]
    return svg(f"outcomes-{name}", 86 + 30 * len(shown), lambda figure: _draw(figure, shown, name))


def _draw(figure: Any, shown: list[Any], name: str) -> None:
    axes = figure.add_subplot()
    # Compliance is help in one set of prompts and harm in the other.
    colors = COLORS | ({"complied": "undefended"} if name == "harmful" else {})
    for outcome in OUTCOMES:
        shares = [getattr(variant.outcomes[name], outcome) for variant in shown]
        starts = [sum(getattr(v.outcomes[name], o) for o in OUTCOMES[: OUTCOMES.index(outcome)]) for v in shown]
        _bars(axes, outcome, shares, starts, PALETTE[colors[outcome]])
    axes.set_yticks(range(len(shown)), [shorten(clean(v.name), LABEL_LENGTH) for v in shown])
    axes.tick_params(axis="y", length=0, labelcolor=PALETTE["ink"])
    axes.invert_yaxis()  # the first variant on top, as in the table
    axes.set_xlim(0, 100)
    axes.grid(visible=False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.set_xlabel("share of answers (%)")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, handlelength=1, columnspacing=1, fontsize=9)


def _bars(axes: Any, outcome: str, shares: list[float], starts: list[float], color: str) -> None:
    label = outcome.replace("_", " ")
    lengths, lefts = [100 * share for share in shares], [100 * start for start in starts]
    axes.barh(range(len(shares)), lengths, left=lefts, height=0.62, color=color, label=label, linewidth=0)
    for place, (share, start) in enumerate(zip(shares, starts, strict=True)):
        if share >= READABLE:
            middle = 100 * (start + share / 2)
            text = f"{100 * share:.0f}"
            axes.text(middle, place, text, ha="center", va="center", color=PALETTE["paper"], fontsize=10)
