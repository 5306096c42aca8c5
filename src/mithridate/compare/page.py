"""From a comparison to one self-contained HTML page, in the style of the report."""

from collections import Counter
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mithridate.compare.figures import Draw, axis_figure, claim_figure, pareto_figure
from mithridate.compare.kept import losses
from mithridate.compare.results import Claim, Comparison
from mithridate.compare.roles import Role, of_role
from mithridate.compare.tables import WORDS, axis_tables, base_table, claim_table, note, value_text
from mithridate.report.figures.canvas import svg
from mithridate.report.page import environment, to_yaml, write_whole
from mithridate.report.sections import Figure
from mithridate.report.tables import Cell, Column
from mithridate.report.text import clean, memory, seconds


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the page as one HTML file without scripts or links to anything outside.

    Raises:
        MithridateError: The file cannot be written.
    """
    write_whole(path, page(comparison).encode("utf-8", errors="replace"))


def page(comparison: Comparison) -> str:
    """Return the page as HTML."""
    return environment().get_template("comparison.html.j2").render(_context(comparison))


def _context(comparison: Comparison) -> dict[str, Any]:
    return {
        "title": clean(comparison.name),
        "summary": summary(comparison),
        "cautions": cautions(comparison),
        "note": note(comparison),
        "claims": [_claim(place, claim) for place, claim in enumerate(comparison.claims)],
        "base": base_table(comparison),
        "pareto": _figure(
            "pareto",
            "Harmful score against accuracy",
            "Lower is safer, further right is more useful. Filled marks, joined by a green line, are on the Pareto "
            "front: no other pipeline is at least as good in both and better in one, among those that still answer "
            "harmless prompts. Arms are 95 % intervals.",
            pareto_figure(comparison),
        ),
        "axes": [_axis(comparison, axis) for axis in comparison.axes],
        "pipelines": _pipelines(comparison),
        "provenance": _provenance(comparison),
        "recipe": to_yaml(comparison.recipe),
    }


def summary(comparison: Comparison) -> str:
    """The outcome in one sentence."""
    counts = Counter(claim.verdict for claim in comparison.claims)
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    front = ", ".join(clean(name) for name in comparison.front) or "none"
    return f"Of {len(comparison.claims)} claims, {verdicts}. On the Pareto front: {front}."


def cautions(comparison: Comparison) -> list[str]:
    """What a reader must know before believing the figures."""
    found = [
        "Seeds vary the attack: which rows are mixed in, and fine-tuning. Each alignment was trained once, with one "
        "seed, so no interval covers the spread between alignments."
    ]
    if len(comparison.seeds) < 5:
        found.append(f"With {len(comparison.seeds)} of the 5 seeds that a verdict needs, no claim has one.")
    if str(comparison.recipe.get("model", "")).startswith("miniature:"):
        found.append("The embedded world shows how methods compare in it, not how large an effect is on a real model.")
    if not of_role(comparison.pipelines, Role.UNDEFENDED):
        found.append("No undefended pipeline was measured.")
    return found + _lost(comparison)


def _lost(comparison: Comparison) -> list[str]:
    """Pipelines that bought their figures with harmless prompts, and what was not measured at all."""
    at_base = [point for point in comparison.points if point.setting == comparison.base]
    found = [
        f"{clean(name)} is kept off the front: {' and '.join(lost)}."
        for name, lost in losses(comparison.pipelines, at_base).items()
    ]
    if any(point.over_refusal is None for point in at_base):
        found.append("Over-refusal was not measured: a pipeline that refuses harmless prompts too would look the same.")
    if any(point.helpfulness is None for point in at_base):
        found.append("Helpfulness was not measured: a pipeline that answers nothing any more would look the same.")
    return found


def _claim(place: int, claim: Claim) -> dict[str, Any]:
    shown = any(row.plotted for row in claim.rows)
    caption = "Bars: 95 % intervals. Small dots: single seeds. Dashed line: no effect."
    title = clean(claim.quantity[:1].upper() + claim.quantity[1:])
    figure = _figure(f"claim{place}", title, caption, claim_figure(claim))
    return {"claim": claim, "table": claim_table(claim) if claim.rows else None, "figure": figure if shown else None}


def _axis(comparison: Comparison, axis: str) -> dict[str, Any]:
    name = WORDS[axis]
    caption = "Lines: means over seeds. Bands: 95 % intervals."
    drawing = _figure(f"axis-{axis}", f"Scores by {name}", caption, axis_figure(comparison, axis))
    kept = [f"{WORDS[a]} {value_text(getattr(comparison.base, a))}" for a in WORDS if a != axis]
    return {"name": name, "kept": ", ".join(kept), "figure": drawing, "tables": axis_tables(comparison, axis)}


def _figure(name: str, title: str, caption: str, drawn: tuple[float, Draw]) -> Figure:
    height, draw = drawn
    return Figure(title, caption, f"{title}; the figures are in the table.", Markup(svg(name, height, draw)))


def _pipelines(comparison: Comparison) -> tuple[list[Column], list[list[Cell]]]:
    titles = ("Pipeline", "Alignment", "Fine-tuning", "Post-tuning", "Defended at")
    rows = [
        [Cell(clean(text)) for text in (p.name, p.alignment, p.finetuning, " + ".join(p.posttuning) or "none", p.role)]
        for p in comparison.pipelines
    ]
    return [Column(title, numeric=False) for title in titles], rows


def _provenance(comparison: Comparison) -> list[tuple[str, str]]:
    """Return (what, value) rows that let a reader make the same comparison again."""
    run = comparison.run
    rows = [
        ("command", run.command or ""),
        ("created", run.created),
        ("seeds", ", ".join(str(seed) for seed in comparison.seeds)),
        ("cells", f"{len(comparison.cells):,} from {comparison.stages:,} stages"),
        ("last call", f"{run.made:,} stages in {seconds(run.seconds)}"),
        ("size of the store", memory(run.store_bytes)),
        *((f"hash: {name}", value) for name, value in comparison.hashes.items()),
        *((f"version: {name}", value) for name, value in comparison.versions.items()),
    ]
    return [(clean(what), clean(value)) for what, value in rows if value]
