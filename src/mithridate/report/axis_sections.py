"""What a run with axes adds to the page: claims, and scores along each axis, as plain data for the template."""

from collections import Counter
from typing import Any

from mithridate.report.axis_results import Claim
from mithridate.report.axis_tables import WORDS, axis_tables, claim_table, note, value_text
from mithridate.report.figures.axis_plots import axis_figure
from mithridate.report.figures.canvas import Draw, svg
from mithridate.report.figures.claim_plots import claim_figure
from mithridate.report.results import Results
from mithridate.report.section import PageFigure, as_markup
from mithridate.report.text import clean


def axis_context(results: Results) -> dict[str, Any]:
    """Return what the template shows of axes and claims."""
    return {
        "axis_note": note(results),
        "claims": [_claim(place, claim) for place, claim in enumerate(results.claims)],
        "claim_summary": claim_summary(results),
        "axes": [_axis(results, axis) for axis in results.axes],
    }


def claim_summary(results: Results) -> str:
    """Return how many claims have which answer, and who is on the front, in words; empty without axes."""
    if not results.claims:
        return ""
    counts = Counter(claim.verdict for claim in results.claims)
    answers = ", ".join(f"{count} {answer}" for answer, count in counts.items())
    front = ", ".join(clean(name) for name in results.front) or "none"
    return f"Of {len(results.claims)} claims, {answers}. On the Pareto front: {front}."


def _claim(place: int, claim: Claim) -> dict[str, Any]:
    shown = any(row.plotted for row in claim.rows)
    caption = "Bars: 95 % intervals. Small dots: single seeds. Dashed line: no effect."
    title = clean(claim.quantity[:1].upper() + claim.quantity[1:])
    # Named by place: a claim's own name has blanks, and the name becomes a prefix of element ids.
    figure = _figure(f"claim{place}", title, caption, claim_figure(claim)) if shown else None
    return {"claim": claim, "table": claim_table(claim) if claim.rows else None, "figure": figure}


def _axis(results: Results, axis: str) -> dict[str, Any]:
    name = WORDS[axis]
    marks = "Marks: means over seeds. Bars" if axis == "attack" else "Lines: means over seeds. Bands"
    caption = f"{marks}: 95 % intervals."
    drawing = None
    if results.tried(axis):
        drawing = _figure(f"axis-{axis}", f"Scores by {name}", caption, axis_figure(results, axis))
    # Without an attack of its own a recipe has no value there.
    others = [other for other in WORDS if other != axis and getattr(results.base, other, None) is not None]
    kept = ", ".join(f"{WORDS[other]} {value_text(getattr(results.base, other))}" for other in others)
    return {"name": name, "kept": kept, "figure": drawing, "tables": axis_tables(results, axis)}


def _figure(name: str, title: str, caption: str, drawn: tuple[float, Draw]) -> PageFigure:
    label = f"{title}; the figures are in the table."
    return PageFigure(title, caption, label, as_markup(svg(name, *drawn)))
